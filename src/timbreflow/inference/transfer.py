"""Timbre transfer of recordings: any rate, channels and length, in constant memory.

content -> mono at the feature rate, level of the training clips -> dynamics taken out (see `expression`) ->
overlapping chunks -> `synthesis` -> joined (see `streaming.chunks`) -> dynamics put back -> the content's rate ->
the content's level -> file or array.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from timbreflow.audio.files import AudioWriter
from timbreflow.audio.inversion import GriffinLimInverter
from timbreflow.errors import TimbreflowError
from timbreflow.inference.expression import Dynamics
from timbreflow.inference.pairs import read_pairs
from timbreflow.inference.released import released_folder
from timbreflow.inference.streaming.batches import StreamBatches, TransferStream
from timbreflow.inference.streaming.chunks import ChunkPlan, cut, overlap_add
from timbreflow.inference.streaming.recordings import Recording, from_array, open_recording, resampled
from timbreflow.inference.streaming.writing import (
    exactly,
    limited,
    output_gain,
    read_back,
    require_no_inputs,
    require_writable,
    scratch_beside,
)
from timbreflow.inference.style import SHORTEST_STYLE_SECONDS, HeardStyle, Styles
from timbreflow.inference.synthesis import (
    DEFAULT_TEMPERATURE,
    DecodeRequest,
    Expression,
    Synthesizer,
    TransferMode,
    TransferOptions,
)
from timbreflow.inference.vocoding import open_inverter, vocoder_beside
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
BATCH_SIZE = 4
"""Chunks that are decoded at once."""

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


@dataclass(eq=False, kw_only=True)
class _FileTransfer(TransferStream):
    """A transfer from file to file, checked and not yet run."""

    content: Recording
    style: HeardStyle
    out: Path
    options: TransferOptions
    notes: tuple[str, ...]


class TimbreTransfer:
    """A trained model with all that stands between it and sound.

    Args:
        bundle: model, features and statistics.
        device: torch device.
        vocoder: folder of a vocoder, which is used where it has beaten Griffin-Lim on these features.

    Raises:
        TimbreflowError: the bundle's model is none that transfers.
    """

    def __init__(self, bundle: ModelBundle, *, device: str | torch.device = "cpu", vocoder: Path | None = None) -> None:
        self.bundle = bundle
        self.device = torch.device(device)
        self.sample_rate = bundle.features.sample_rate
        self.synthesizer = Synthesizer(bundle, open_inverter(bundle.features, vocoder), device=self.device)
        rate, hop = self.sample_rate, bundle.features.hop_length
        self.plan = ChunkPlan(
            length=round(CHUNK_SECONDS * rate / hop) * hop,
            fade=round(FADE_SECONDS * rate),
            margin=round(MARGIN_SECONDS * rate),
            max_lag=round(MAX_LAG_SECONDS * rate),
        )
        self.styles = Styles(bundle, self._features, frames=self.plan.length // hop)

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> "TimbreTransfer":
        """Load `weights.safetensors` and `config.json` of a folder, and the vocoder beside it if there is one.

        Raises:
            TimbreflowError: the folder holds no model that can be read.
        """
        return cls(load_bundle(Path(folder)), device=device, vocoder=vocoder_beside(Path(folder)))

    @classmethod
    def released(cls, name: str, *, device: str | torch.device = "cpu") -> "TimbreTransfer":
        """Load a released model; `released.released_folder` says where its weights are looked for.

        Args:
            name: "vqvae" or "glow".
            device: torch device.

        Raises:
            TimbreflowError: there is no such model, or its weights are not there.
        """
        return cls.load(released_folder(name), device=device)

    def transfer(
        self,
        content: ArrayLike,
        style: ArrayLike,
        *,
        sample_rate: int | None = None,
        style_sample_rate: int | None = None,
        temperature: float = DEFAULT_TEMPERATURE,
        seed: int = 0,
        mode: TransferMode = "sample",
        fit_style: int = 0,
        expression: Expression = "on",
    ) -> np.ndarray:
        """Play the content's notes with the style's timbre.

        What is not taken as it is, such as samples beyond full scale, is told by a warning.

        Args:
            content: [N], or [C, N] with the channels first; float in [-1, 1], int16, int32 or uint8.
            style: the same, at least half a second; the most active 16 s of it are used.
            sample_rate: of content, style and result, in Hz; None is the model's own, `self.sample_rate`.
            style_sample_rate: of the style, where that is another.
            temperature: spread of a flow's samples, 0 for its most likely one; a VQ-VAE draws none.
            seed: the same seed gives the same samples.
            mode: "convert" encodes the content under its own style and decodes it under the other; flows only.
            fit_style: gradient steps that fit the style tokens to the style first, 0 for none; flows only.
            expression: "on" keeps tuning, vibrato, glides and dynamics of the content; "off" leaves them to the model,
                which loses most of them. A conversion re-encodes them and takes no notice.

        Returns:
            float32 of the content's shape, rate, length and level; peaks are bent below full scale. The models are
            mono: all channels are the same.

        Raises:
            TimbreflowError: a sound is silent, NaN, too short or of another shape or type, an option means nothing, or
                the model is no flow and one is asked for.
        """
        options = self._options(temperature, seed, mode, fit_style, expression)
        rate = self.sample_rate if sample_rate is None else sample_rate
        style_rate = rate if style_sample_rate is None else style_sample_rate
        music = from_array(content, rate, name="the content")
        reference = from_array(style, style_rate, name="the style", minimum_seconds=SHORTEST_STYLE_SECONDS)
        stream = TransferStream(*self._asked(music, self.styles.heard(reference), options))
        audio = np.concatenate(list(self._samples(music, StreamBatches(self._decode, batch_size=BATCH_SIZE), stream)))
        audio *= np.float32(output_gain(music, _square_sum(audio)))
        for note in music.notes + reference.notes:
            warnings.warn(note, stacklevel=2)
        shape = np.shape(content)
        return limited(audio) if len(shape) == 1 else np.tile(limited(audio), (shape[0], 1))

    def transfer_file(
        self,
        content_path: str | Path,
        style_path: str | Path,
        out_path: str | Path,
        *,
        temperature: float = DEFAULT_TEMPERATURE,
        seed: int = 0,
        mode: TransferMode = "sample",
        fit_style: int = 0,
        expression: Expression = "on",
        progress: Progress | None = None,
    ) -> TransferResult:
        """As `transfer`, from files to a file, in memory that does not grow with the content.

        Args:
            content_path: wav, flac, ogg or mp3; any rate, channels and length.
            style_path: the same, at least half a second; the most active 16 s of it are used.
            out_path: ends in .wav, .flac, .ogg or .mp3; gets the content's length, rate, channels and level,
                and its bits in a format that has them.
            temperature: as in `transfer`, as are the next four.
            seed: of everything drawn.
            mode: "sample" or "convert".
            fit_style: gradient steps.
            expression: "on" or "off".
            progress: called after each batch of chunks.

        Raises:
            TimbreflowError: a file is missing, corrupt, silent, NaN or too short; `out_path` is an input, of no known
                format, or its format does not take the content's rate and channels; the model is no flow and one is
                asked for. Nothing is written then.
        """
        options = self._options(temperature, seed, mode, fit_style, expression)
        require_no_inputs([Path(out_path)], [Path(content_path), Path(style_path)])
        transfer = self._open(Path(content_path), Path(style_path), Path(out_path), options)
        return self._run(transfer, StreamBatches(self._decode, batch_size=BATCH_SIZE), progress=progress)

    def transfer_pairs(
        self,
        table: str | Path,
        out_dir: str | Path,
        *,
        temperature: float = DEFAULT_TEMPERATURE,
        seed: int = 0,
        mode: TransferMode = "sample",
        fit_style: int = 0,
        expression: Expression = "on",
        report: Callable[[str], None] | None = None,
    ) -> list[Path]:
        """Do all transfers of a table (see `pairs`) and write <out_dir>/<id>.wav for each.

        Args:
            table: CSV file with the columns id, content, style; all of it is checked before anything is written.
            out_dir: folder for the results; made where it is missing.
            temperature: as in `transfer`, as are the next four.
            seed: of every transfer.
            mode: "sample" or "convert".
            fit_style: gradient steps; a style that several pairs share is fitted once.
            expression: "on" or "off".
            report: told a sentence after each pair.

        Returns:
            The files that were written, in the table's order.

        Raises:
            TimbreflowError: the table cannot be used, and nothing was written; or some pairs failed, and all others
                were written.
        """
        options = self._options(temperature, seed, mode, fit_style, expression)
        pairs = read_pairs(table)
        inputs = [path for pair in pairs for path in (pair.content, pair.style)]
        require_no_inputs((Path(out_dir) / f"{pair.id}.wav" for pair in pairs), [Path(table), *inputs])

        def transfers() -> Iterator[TransferStream]:
            for pair in pairs:
                try:
                    yield self._open(pair.content, pair.style, Path(out_dir) / f"{pair.id}.wav", options)
                except TimbreflowError as error:
                    yield TransferStream(iter(()), None, failed=error)

        written, failures = [], []
        streams = StreamBatches(self._decode, batch_size=BATCH_SIZE, coming=transfers())
        for pair, stream in zip(pairs, streams, strict=True):
            try:
                if stream.failed is not None:
                    raise stream.failed
                assert isinstance(stream, _FileTransfer)
                result = self._run(stream, streams)
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

    def without_effect(self, options: TransferOptions) -> list[str]:
        """Which of temperature and seed change nothing for this model and these options."""
        samples = isinstance(self.synthesizer.model, Glow) and options.mode == "sample"
        phases = isinstance(self.synthesizer.invert, GriffinLimInverter)
        draws = (samples and options.temperature > 0) or options.fit_style > 0 or phases
        return [name for name, used in (("temperature", samples), ("seed", draws)) if not used]

    def _open(self, content_path: Path, style_path: Path, out: Path, options: TransferOptions) -> _FileTransfer:
        """A transfer that can be run: content, style and output are found to be usable, nothing is written."""
        content = open_recording(content_path)
        require_writable(out, content)
        style, notes = self.styles.read(style_path)
        return _FileTransfer(
            *self._asked(content, style, options),
            content=content,
            style=style,
            out=out,
            options=options,
            notes=content.notes + notes,
        )

    def _run(
        self, transfer: _FileTransfer, streams: StreamBatches, *, progress: Progress | None = None
    ) -> TransferResult:
        """Decode a transfer and write its file."""
        content, out = transfer.content, transfer.out
        # The level is known only when all is generated: samples wait in an unnamed file beside the output, not in
        # memory (nor in /tmp, which may be memory).
        with scratch_beside(out) as waiting:
            square_sum = 0.0
            for part in self._samples(content, streams, transfer, progress=progress):
                square_sum += _square_sum(part)
                waiting.write(np.ascontiguousarray(part, dtype=np.float32).data)
            gain = np.float32(output_gain(content, square_sum))
            n_over = 0
            with AudioWriter(out, content.sample_rate, content.channels, like=content.subtype) as writer:
                for block in read_back(waiting):
                    n_over += int(np.count_nonzero(np.abs(block * gain) > 1.0))
                    writer.write(np.broadcast_to(limited(block * gain), (content.channels, len(block))))
        notes = list(transfer.notes)
        if n_over:
            notes.append(
                f"At the content's level {n_over} of {content.n_samples} samples of {out} would be beyond full scale; "
                "they are bent below it."
            )
        if content.channels > 1:
            notes.append(f"The models are mono: all {content.channels} channels of {out} hold the same sound.")
        if transfer.options.fit_style:
            fitted = self.styles.fitted(transfer.style.features, transfer.options)
            notes.append(
                f"The style's likelihood went from {fitted.bits_per_dim_before:.3f} to "
                f"{fitted.bits_per_dim_after:.3f} bits per dimension."
            )
        return TransferResult(out, content.seconds, content.sample_rate, content.channels, tuple(notes))

    def _options(
        self, temperature: float, seed: int, mode: TransferMode, fit_style: int, expression: Expression
    ) -> TransferOptions:
        """What is asked for, checked against the model before anything is read or written."""
        options = TransferOptions(temperature, seed, mode, fit_style, expression)
        if (fit_style or mode == "convert") and not isinstance(self.synthesizer.model, Glow):
            wanted = "fit_style" if fit_style else "mode 'convert'"
            raise TimbreflowError(
                f"{wanted} needs a flow with an exact likelihood, and this is a {self.bundle.kind}; use a glow."
            )
        return options

    def _features(self, audio: np.ndarray) -> Tensor:
        """[B, N] sound at the feature rate -> [B, M, T] normalised features on the device."""
        return self.synthesizer.features(torch.from_numpy(np.ascontiguousarray(audio, np.float32)).to(self.device))

    def _asked(
        self, content: Recording, style: HeardStyle, options: TransferOptions
    ) -> tuple[Iterator[np.ndarray], DecodeRequest]:
        """Chunks of a content, and how they are to sound: the first two fields of a `TransferStream`."""
        request = DecodeRequest(
            style.features,
            options.temperature,
            options.seed,
            torch.Generator(self.device).manual_seed(options.seed),
            fitted=self.styles.fitted(style.features, options).tokens if options.fit_style else None,
            own_style=self.styles.heard(content).features if options.mode == "convert" else None,
            # A conversion holds the content's own playing already.
            expression="off" if options.mode == "convert" else options.expression,
            rises=(style.rise,),
        )
        blocks = content.mono(self.sample_rate)
        if request.expression == "on":
            blocks = Dynamics(content.frame_powers).taken_out(blocks, self.sample_rate)
        return cut(blocks, self.plan), request

    def _samples(
        self, content: Recording, streams: StreamBatches, stream: TransferStream, *, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """[n] samples at the content's rate, as many as it has, not yet at its level."""
        n_samples = max(1, round(content.n_samples * self.sample_rate / content.sample_rate))

        def generate() -> Iterator[np.ndarray]:
            done = 0
            for part in overlap_add(streams.run(stream), self.plan, n_samples):
                done += len(part)
                if progress is not None:
                    progress(done / n_samples)
                yield part

        parts = generate()
        if stream.request is not None and stream.request.expression == "on":
            parts = Dynamics(content.frame_powers).put_back(parts, self.sample_rate)
        return exactly(resampled(parts, self.sample_rate, content.sample_rate), content.n_samples)

    def _decode(self, chunks: Sequence[np.ndarray], requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
        """Sound of chunks [n], of their lengths."""
        return self.synthesizer.transfer(chunks, DecodeRequest.joined(requests))


def _square_sum(audio: np.ndarray) -> float:
    return float(np.sum(np.square(audio, dtype=np.float64)))
