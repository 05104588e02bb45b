"""Timbre transfer of recordings: any rate, channels and length, in constant memory.

content -> mono at the feature rate, level of the training clips -> overlapping chunks -> model -> Griffin-Lim
-> joined (see `chunks`) -> the content's rate -> level of the content -> file.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from timbreflow.audio.features import FeatureExtractor
from timbreflow.audio.files import AudioWriter
from timbreflow.errors import TimbreflowError
from timbreflow.inference.batches import Lane, Lanes
from timbreflow.inference.chunks import ChunkPlan, cut, overlap_add
from timbreflow.inference.decoding import (
    DEFAULT_CONTRAST,
    DEFAULT_TEMPERATURE,
    DecodingOptions,
    TransferMode,
    Voice,
    decode,
)
from timbreflow.inference.pairs import read_pairs
from timbreflow.inference.recordings import Recording, measure, open_recording, resampled
from timbreflow.inference.styles import SHORTEST_STYLE_SECONDS, Styles
from timbreflow.inference.vocoding import open_inverter, vocoder_beside
from timbreflow.inference.writing import (
    exactly,
    limited,
    output_gain,
    read_back,
    require_no_inputs,
    require_writable,
    scratch_beside,
)
from timbreflow.models.base import TransferModel
from timbreflow.models.bundle import ModelBundle, load_bundle

CHUNK_SECONDS = 8.0
"""Length of the clips that the models were trained on."""
FADE_SECONDS = 0.1
MARGIN_SECONDS = 0.1
MAX_LAG_SECONDS = 0.002
"""Measured on melodies of one and three voices sent through the inverter alone in 4 s chunks: RMS error of the level at
the joints 2.8 and 2.2 dB with a linear fade, 1.9 and 1.2 with equal power, .6 and .7 with chunks moved by at most 2 ms,
which is what it is elsewhere. 12 ms does no better there and smears the timing (LSD 1.5 -> 2.3 dB)."""
CHUNKS_AT_ONCE = 4

Progress = Callable[[float], None]
"""Called with the fraction that is done, 0..1."""


@dataclass(frozen=True)
class TransferResult:
    """What `transfer_file` wrote.

    Args:
        path: the new file.
        seconds: its length.
        sample_rate: in Hz, the content's.
        channels: the content's.
        notes: sentences that a listener should be told.
    """

    path: Path
    seconds: float
    sample_rate: int
    channels: int
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Job:
    """One transfer from file to file, checked and not yet run."""

    content: Recording
    style: Tensor
    out: Path
    options: DecodingOptions
    lane: Lane
    notes: tuple[str, ...]


class TimbreTransfer:
    """A trained model with all that stands between it and sound files.

    Args:
        bundle: model, features and statistics.
        device: torch device.
        vocoder: folder of a vocoder, which is used where it has beaten Griffin-Lim on these features.
        n_iter: iterations of Griffin-Lim.
        momentum: of fast Griffin-Lim (Perraudin, Balazs, Søndergaard, WASPAA 2013).

    Raises:
        TimbreflowError: the bundle's model is none that transfers.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        device: str | torch.device = "cpu",
        vocoder: Path | None = None,
        n_iter: int = 32,
        momentum: float = 0.99,
    ) -> None:
        if bundle.normalizer is None or not isinstance(bundle.model, TransferModel):
            raise TimbreflowError(f"A model of kind {bundle.kind} does not transfer timbre; name a vqvae or a glow.")
        self.bundle = bundle
        self.normalizer = bundle.normalizer
        self.device = torch.device(device)
        self.sample_rate = bundle.features.sample_rate
        self.model = cast(TransferModel, bundle.model.to(self.device).eval())
        self.extract = FeatureExtractor(bundle.features).to(self.device).eval()
        self.invert = open_inverter(bundle.features, vocoder, n_iter=n_iter, momentum=momentum)
        self.plan = self._plan()
        self.styles = Styles(bundle, self.features, frames=self.plan.length // bundle.features.hop_length)

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> "TimbreTransfer":
        """Load `weights.safetensors` and `config.json` of a bundle, and the vocoder beside it if there is one.

        Raises:
            TimbreflowError: the folder holds no bundle that can be read.
        """
        return cls(load_bundle(Path(folder)), device=device, vocoder=vocoder_beside(Path(folder)))

    def transfer(
        self,
        content: np.ndarray,
        style: np.ndarray,
        *,
        temperature: float | None = None,
        seed: int = 0,
        mode: TransferMode = "sample",
        fit_style: int = 0,
    ) -> np.ndarray:
        """Play the content's notes with the style's timbre.

        Args:
            content: [N] float at `self.sample_rate`.
            style: [S] float at `self.sample_rate`, at least half a second.
            temperature: of models that sample, others take no notice; None is .25.
            seed: the same seed gives the same samples.
            mode: "convert" encodes the content under its own style and decodes it under the other; flows only.
            fit_style: steps of fitting the style to its reference by likelihood; flows only, 0 is none.

        Returns:
            [N] float32 at `self.sample_rate`, at the content's level.

        Raises:
            TimbreflowError: a signal is silent, NaN or too short, temperature is negative, or the model is no flow
                and one is asked for.
        """
        options = self._options(temperature, seed, mode, fit_style)
        music = self._measured(content, "the content", 0.0)
        features = self.styles.features_of(self._measured(style, "the style", SHORTEST_STYLE_SECONDS))
        lanes = Lanes(self._decode, at_once=CHUNKS_AT_ONCE)
        audio = np.concatenate(list(self._generate(music, lanes, self._lane(music, features, options))))
        square_sum = float(np.sum(np.square(audio, dtype=np.float64)))
        return limited(audio * np.float32(output_gain(music, square_sum)))

    def transfer_file(
        self,
        content_path: str | Path,
        style_path: str | Path,
        out_path: str | Path,
        *,
        temperature: float | None = None,
        seed: int = 0,
        mode: TransferMode = "sample",
        fit_style: int = 0,
        progress: Progress | None = None,
    ) -> TransferResult:
        """As `transfer`, from files to a file, in memory that does not grow with the content.

        Args:
            content_path: wav, flac, ogg or mp3; any rate, channels and length.
            style_path: the same, at least half a second; the most active 16 s of it are used.
            out_path: ends in .wav, .flac, .ogg or .mp3; gets the content's length, rate, channels and level,
                and its bits in a format that has them.
            temperature: of models that sample, others take no notice; None is .25.
            seed: the same seed gives the same samples.
            mode: "convert" encodes the content under its own style and decodes it under the other; flows only.
            fit_style: steps of fitting the style to its reference by likelihood; flows only, 0 is none.
            progress: called after each batch of chunks.

        Raises:
            TimbreflowError: a file is missing, corrupt, silent, NaN or too short; `out_path` is an input, of no known
                format, or its format does not take the content's rate and channels; the model is no flow and one is
                asked for. Nothing is written then.
        """
        options = self._options(temperature, seed, mode, fit_style)
        require_no_inputs([Path(out_path)], [Path(content_path), Path(style_path)])
        job = self._open(Path(content_path), Path(style_path), Path(out_path), options)
        return self._finish(job, Lanes(self._decode, at_once=CHUNKS_AT_ONCE), progress=progress)

    def transfer_pairs(
        self,
        table: str | Path,
        out_dir: str | Path,
        *,
        temperature: float | None = None,
        seed: int = 0,
        mode: TransferMode = "sample",
        fit_style: int = 0,
        report: Callable[[str], None] | None = None,
    ) -> list[Path]:
        """Do all transfers of a table (see `pairs`) and write <out_dir>/<id>.wav for each.

        Args:
            table: CSV file with the columns id, content, style; all of it is checked before anything is written.
            out_dir: folder for the results; made where it is missing.
            temperature: of models that sample, others take no notice; None is .25.
            seed: of every transfer.
            mode: of every transfer, as in `transfer`.
            fit_style: as in `transfer`; a style that several pairs share is fitted once.
            report: told a sentence after each pair.

        Returns:
            The files that were written, in the table's order.

        Raises:
            TimbreflowError: the table cannot be used, and nothing was written; or some pairs failed, and all others
                were written.
        """
        options = self._options(temperature, seed, mode, fit_style)
        pairs = read_pairs(table)
        inputs = [path for pair in pairs for path in (pair.content, pair.style)]
        require_no_inputs((Path(out_dir) / f"{pair.id}.wav" for pair in pairs), [Path(table), *inputs])
        jobs: dict[Lane, _Job] = {}

        def lanes() -> Iterator[Lane]:
            for pair in pairs:
                try:
                    job = self._open(pair.content, pair.style, Path(out_dir) / f"{pair.id}.wav", options)
                except TimbreflowError as error:
                    yield Lane(iter(()), None, failed=error)
                else:
                    jobs[job.lane] = job
                    yield job.lane

        written, failures = [], []
        together = Lanes(self._decode, at_once=CHUNKS_AT_ONCE, coming=lanes())
        for pair, lane in zip(pairs, together, strict=True):
            job = jobs.pop(lane, None)
            try:
                if job is None or lane.failed is not None:
                    raise lane.failed or TimbreflowError(f"{pair.content} cannot be opened.")
                result = self._finish(job, together)
                written.append(result.path)
                message = " ".join([f"wrote {result.path}.", *result.notes])
            except TimbreflowError as error:
                failures.append(f"{pair.id}: {error}")
                message = f"failed {failures[-1]}"
            if report is not None:
                report(message)
        if failures:
            raise TimbreflowError(
                f"{len(failures)} of {len(pairs)} pairs failed, the others are in {out_dir}: {' | '.join(failures)}"
            )
        return written

    def _open(self, content_path: Path, style_path: Path, out: Path, options: DecodingOptions) -> "_Job":
        """A transfer that can be run: content, style and output are found to be usable, nothing is written."""
        content = open_recording(content_path)
        require_writable(out, content)
        style = self.styles.read(style_path)
        notes = content.notes + self.styles.notes(style_path)
        return _Job(content, style, out, options, self._lane(content, style, options), notes)

    def _finish(self, job: "_Job", lanes: Lanes, *, progress: Progress | None = None) -> TransferResult:
        """Run a transfer and write its file."""
        content, out = job.content, job.out
        # The level is known only when all is generated: samples wait in an unnamed file beside the output, not in
        # memory (nor in /tmp, which may be memory).
        with scratch_beside(out) as waiting:
            square_sum = 0.0
            parts = self._generate(content, lanes, job.lane, progress=progress)
            for part in exactly(resampled(parts, self.sample_rate, content.sample_rate), content.n_samples):
                square_sum += float(np.sum(np.square(part, dtype=np.float64)))
                waiting.write(np.ascontiguousarray(part, dtype=np.float32).data)
            gain = np.float32(output_gain(content, square_sum))
            n_over = 0
            with AudioWriter(out, content.sample_rate, content.channels, like=content.subtype) as writer:
                for block in read_back(waiting):
                    n_over += int(np.count_nonzero(np.abs(block * gain) > 1.0))
                    writer.write(np.broadcast_to(limited(block * gain), (content.channels, len(block))))
        notes = job.notes
        if n_over:
            notes += (
                f"At the content's level {n_over / content.n_samples:.2%} of the samples of {out} would be beyond full "
                "scale; they are bent below it.",
            )
        if content.channels > 1:
            notes += (f"The models are mono: all {content.channels} channels of {out} hold the same sound.",)
        if job.options.fit_style:
            fitted = self.styles.fitted(job.style, job.options)
            notes += (
                f"The style's likelihood went from {fitted.bits_per_dim_before:.3f} to "
                f"{fitted.bits_per_dim_after:.3f} bits per dimension.",
            )
        return TransferResult(
            path=out,
            seconds=content.seconds,
            sample_rate=content.sample_rate,
            channels=content.channels,
            notes=notes,
        )

    def _options(self, temperature: float | None, seed: int, mode: TransferMode, fit_style: int) -> DecodingOptions:
        """What is asked for, checked against the model before anything is read or written."""
        options = DecodingOptions(DEFAULT_TEMPERATURE if temperature is None else temperature, seed, mode, fit_style)
        options.require(self.model, self.bundle.kind)
        return options

    def _plan(self) -> ChunkPlan:
        rate, hop = self.sample_rate, self.bundle.features.hop_length
        return ChunkPlan(
            length=round(CHUNK_SECONDS * rate / hop) * hop,
            fade=round(FADE_SECONDS * rate),
            margin=round(MARGIN_SECONDS * rate),
            max_lag=round(MAX_LAG_SECONDS * rate),
        )

    def _measured(self, audio: np.ndarray, name: str, minimum_seconds: float) -> Recording:
        if audio.ndim != 1:
            raise TimbreflowError(f"{name} has shape {list(audio.shape)}; give one channel, [N].")
        if not np.isfinite(audio).all():
            raise TimbreflowError(f"{name} holds samples that are NaN or infinite; export it again from its source.")
        block = audio[None].astype(np.float32)
        return measure(lambda: [block], self.sample_rate, name=name, minimum_seconds=minimum_seconds)

    def features(self, audio: np.ndarray) -> Tensor:
        """[B, N] sound at the feature rate -> [B, M, T] normalised features on the device."""
        tensor = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(self.device)
        return self.normalizer.normalize(self.extract(tensor))

    @torch.inference_mode()
    def _lane(self, content: Recording, style: Tensor, options: DecodingOptions) -> Lane:
        voice = Voice(
            style,
            options.temperature,
            options.seed,
            torch.Generator(self.device).manual_seed(options.seed),
            fitted=self.styles.fitted(style, options).tokens if options.fit_style else None,
            own_style=self.styles.features_of(content) if options.mode == "convert" else None,
        )
        return Lane(cut(content.mono(self.sample_rate), self.plan), voice)

    def _generate(
        self, content: Recording, lanes: Lanes, lane: Lane, *, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """Samples at the feature rate, [n] at a time, as long as the content and not yet at its level."""
        n_samples = max(1, round(content.n_samples * self.sample_rate / content.sample_rate))
        done = 0
        for part in overlap_add(lanes.run(lane), self.plan, n_samples):
            done += len(part)
            if progress is not None:
                progress(done / n_samples)
            yield part

    def _bounded(self, features: Tensor) -> Tensor:
        """Raw features no louder than a full-scale tone, which no clip of the training comes near."""
        config = self.bundle.features
        loudest = math.log(config.win_length / 2) if config.kind == "log_mel" else math.log1p(config.win_length / 2)
        return features.clamp(max=loudest)

    @torch.inference_mode()
    def _decode(self, chunks: Sequence[np.ndarray], voices: Sequence[Voice]) -> np.ndarray:
        """Sound of chunks of one length, [B, n]."""
        hop, n_samples = self.bundle.features.hop_length, len(chunks[0])
        # A lone short chunk gets at least a second, in whole frames: encoders step over several frames at once.
        padded = max(-(-n_samples // hop) * hop, -(-self.sample_rate // hop) * hop)
        features = self.features(np.stack([np.pad(chunk, (0, padded - n_samples)) for chunk in chunks]))
        # Converting gives back what is there, and has all of its contrast.
        lacking = self.bundle.features.kind == "log_mel" and voices[0].own_style is None
        contrast = DEFAULT_CONTRAST if lacking else 1.0
        made = self._bounded(self.normalizer.denormalize(contrast * decode(self.model, features, voices)))
        return self.invert(made, seed=voices[0].seed).float().cpu().numpy()[:, :n_samples]
