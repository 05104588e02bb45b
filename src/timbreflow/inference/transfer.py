"""Timbre transfer of recordings: any rate, channels and length, in constant memory.

content -> mono at the feature rate, level of the training clips -> overlapping chunks -> model -> Griffin-Lim
-> joined (see `chunks`) -> the content's rate -> level of the content -> file.
"""

import hashlib
import math
from collections import OrderedDict
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
from timbreflow.inference.decoding import DEFAULT_TEMPERATURE, DecodingOptions, TransferMode, Voice, decode
from timbreflow.inference.pairs import read_pairs
from timbreflow.inference.recordings import Recording, measure, open_recording, resampled
from timbreflow.inference.style_fitting import FittedStyle, fit_style
from timbreflow.inference.vocoding import open_inverter, vocoder_beside
from timbreflow.inference.writing import exactly, limited, output_gain, read_back, require_writable, scratch_beside
from timbreflow.models.base import TransferModel
from timbreflow.models.bundle import ModelBundle, load_bundle
from timbreflow.models.glow.model import Glow

CHUNK_SECONDS = 8.0
"""Length of the clips that the models were trained on."""
FADE_SECONDS = 0.1
MARGIN_SECONDS = 0.1
MAX_LAG_SECONDS = 0.002
"""Measured on melodies of one and three voices sent through the inverter alone in 4 s chunks: RMS error of the level at
the joints 2.8 and 2.2 dB with a linear fade, 1.9 and 1.2 with equal power, .6 and .7 with chunks moved by at most 2 ms,
which is what it is elsewhere. 12 ms does no better there and smears the timing (LSD 1.5 -> 2.3 dB)."""
CHUNKS_AT_ONCE = 4
SHORTEST_STYLE_SECONDS = 0.5
LONGEST_STYLE_SECONDS = 16.0
STYLES_KEPT = 32
USUAL_NOISE = 0.1
"""Noise on the features in the training of a flow whose bundle does not tell it."""

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
        if bundle.normalizer is None:
            raise TimbreflowError(f"A model of kind {bundle.kind} does not transfer timbre; name a vqvae or a glow.")
        self.bundle = bundle
        self.normalizer = bundle.normalizer
        self.device = torch.device(device)
        self.sample_rate = bundle.features.sample_rate
        self.model = cast(TransferModel, bundle.model.to(self.device).eval())
        self.extract = FeatureExtractor(bundle.features).to(self.device).eval()
        self.invert = open_inverter(bundle.features, vocoder, n_iter=n_iter, momentum=momentum)
        self.plan = self._plan()
        self._styles: OrderedDict[tuple[str, int, int], Tensor] = OrderedDict()
        self._fitted: OrderedDict[tuple[str, int, int], FittedStyle] = OrderedDict()

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
        features = self._style_features(self._measured(style, "the style", SHORTEST_STYLE_SECONDS))
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
            out_path: ends in .wav, .flac, .ogg or .mp3; gets the content's length, rate, channels and level.
            temperature: of models that sample, others take no notice; None is .25.
            seed: the same seed gives the same samples.
            mode: "convert" encodes the content under its own style and decodes it under the other; flows only.
            fit_style: steps of fitting the style to its reference by likelihood; flows only, 0 is none.
            progress: called after each batch of chunks.

        Raises:
            TimbreflowError: a file is missing, corrupt, silent, NaN or too short; `out_path` is of no known format or
                its format does not take the content's rate and channels; the model is no flow and one is asked for.
                Nothing is written then.
        """
        options = self._options(temperature, seed, mode, fit_style)
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
                written.append(self._finish(job, together).path)
                message = f"wrote {written[-1]}"
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
        style = self._style_of(style_path)
        return _Job(content, style, out, options, self._lane(content, style, options))

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
            with AudioWriter(out, content.sample_rate, content.channels) as writer:
                for block in read_back(waiting):
                    writer.write(np.broadcast_to(limited(block * gain), (content.channels, len(block))))
        notes: tuple[str, ...] = ()
        if content.channels > 1:
            notes = (f"The models are mono: all {content.channels} channels of {out} hold the same sound.",)
        if job.options.fit_style:
            fitted = self._fit(job.style, job.options)
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

    def _style_of(self, path: Path) -> Tensor:
        """Features of a style file; those of the last few are kept, since many pairs may share one style."""
        state = path.stat() if path.is_file() else None
        key = (str(path.resolve()), state.st_mtime_ns, state.st_size) if state else ("", 0, 0)
        if key not in self._styles:
            recording = open_recording(path, minimum_seconds=SHORTEST_STYLE_SECONDS)
            self._styles[key] = self._style_features(recording)
            if len(self._styles) > STYLES_KEPT:
                self._styles.popitem(last=False)
        self._styles.move_to_end(key)
        return self._styles[key]

    @torch.inference_mode()
    def _style_features(self, style: Recording) -> Tensor:
        """[1, M, S] normalised; a short style is repeated until it is as long as the clips of the training."""
        audio = style.excerpt(self.sample_rate, seconds=LONGEST_STYLE_SECONDS)
        hop = self.bundle.features.hop_length
        # Contents tell their own style too, and may be shorter than a frame.
        features = self._features(np.pad(audio, (0, max(0, hop - len(audio))))[None])
        wanted = self.plan.length // hop
        repeats = -(-wanted // features.shape[-1])
        # Frames are repeated, not samples: a seam in the sound would be a click, which has a timbre of its own.
        return features.repeat(1, 1, repeats)[..., : max(wanted, features.shape[-1])]

    def _features(self, audio: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(self.device)
        return self.normalizer.normalize(self.extract(tensor))

    def _fit(self, style: Tensor, options: DecodingOptions) -> FittedStyle:
        """The style's tokens after `options.fit_style` steps; those of the last few styles are kept."""
        key = (hashlib.sha256(style.cpu().numpy().tobytes()).hexdigest(), options.fit_style, options.seed)
        if key not in self._fitted:
            section = self.bundle.training.get("section", {})
            self._fitted[key] = fit_style(
                cast(Glow, self.model),
                style,
                steps=options.fit_style,
                noise=float(section.get("noise", USUAL_NOISE)),
                generator=torch.Generator(self.device).manual_seed(options.seed),
            )
            if len(self._fitted) > STYLES_KEPT:
                self._fitted.popitem(last=False)
        self._fitted.move_to_end(key)
        return self._fitted[key]

    @torch.inference_mode()
    def _lane(self, content: Recording, style: Tensor, options: DecodingOptions) -> Lane:
        voice = Voice(
            style,
            options.temperature,
            options.seed,
            torch.Generator(self.device).manual_seed(options.seed),
            fitted=self._fit(style, options).tokens if options.fit_style else None,
            own_style=self._style_features(content) if options.mode == "convert" else None,
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
        features = self._features(np.stack([np.pad(chunk, (0, padded - n_samples)) for chunk in chunks]))
        made = self._bounded(self.normalizer.denormalize(decode(self.model, features, voices)))
        return self.invert(made, seed=voices[0].seed).float().cpu().numpy()[:, :n_samples]
