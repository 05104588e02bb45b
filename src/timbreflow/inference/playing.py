"""A model at work on recordings: from a content and a style to the samples of an array or a file.

content -> mono at the feature rate, level of the training clips -> dynamics taken out (see `expression`) ->
overlapping chunks -> `synthesis` -> joined (see `streaming.chunks`) -> dynamics put back -> the content's rate ->
the band above (see `band`) -> the content's level -> file or array.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from timbreflow.audio.files import AudioWriter
from timbreflow.inference.band import BandAbove
from timbreflow.inference.expression import Dynamics
from timbreflow.inference.refining import open_refiner
from timbreflow.inference.running import Cancel, Progress, ask, share
from timbreflow.inference.streaming.batches import StreamBatches, TransferStream
from timbreflow.inference.streaming.chunks import ChunkPlan, cut, overlap_add
from timbreflow.inference.streaming.recordings import Recording, resampled
from timbreflow.inference.streaming.writing import (
    Wet,
    exactly,
    finished,
    limited,
    output_gain,
    read_back,
    require_writable,
    scratch_beside,
)
from timbreflow.inference.style import StyleBlend, Styles, blend
from timbreflow.inference.synthesis import DecodeRequest, Synthesizer, TransferOptions
from timbreflow.inference.vocoding import open_inverter
from timbreflow.models.bundle import ModelBundle

CHUNK_SECONDS = 8.0
"""Length of the clips that the models were trained on."""
FADE_SECONDS = 0.1
MARGIN_SECONDS = 0.5
"""A note that sounds when a chunk begins is taken as an old one (see `models.lookup`); behind the margin it is one."""
MAX_LAG_SECONDS = 0.002
"""Measured on melodies of one and three voices sent through the inverter alone in 4 s chunks: RMS error of the level at
the joints 2.8 and 2.2 dB with a linear fade, 1.9 and 1.2 with equal power, .6 and .7 with chunks moved by at most 2 ms,
which is what it is elsewhere. 12 ms does no better there and smears the timing (LSD 1.5 -> 2.3 dB)."""
BATCH_SIZE = 4
"""Chunks that are decoded at once."""

Decode = Callable[[Sequence[np.ndarray], Sequence[DecodeRequest]], list[np.ndarray]]
"""Chunks [n] and how each is to sound -> their sound, of their lengths."""


@dataclass(frozen=True)
class Levels:
    """What a transfer must know of a whole recording.

    Attributes:
        into: factor that brings the content to the level of the training clips.
        out: factor that brings the result to its own level.
        dynamics: the content's; None leaves them to the model.
    """

    into: float
    out: float
    dynamics: Dynamics | None = None


@dataclass(frozen=True)
class TransferResult:
    """What `transfer_file` wrote.

    Args:
        path: the new file.
        seconds: its length.
        sample_rate: in Hz, the content's.
        channels: the content's.
        notes: sentences that a listener should be told.
        levels: factors of this transfer, for `TimbreTransfer.stream`.
    """

    path: Path
    seconds: float
    sample_rate: int
    channels: int
    notes: tuple[str, ...]
    levels: Levels


@dataclass(eq=False)
class MonoTrack:
    """The content, or one channel of it, on its way through the model.

    Attributes:
        content: what is transferred, with the level that it is to get.
        channels: of the result that it is heard in.
        stream: its chunks.
        band: what is added above the models' reach, if anything.
    """

    content: Recording
    channels: Sequence[int]
    stream: TransferStream
    band: BandAbove | None


@dataclass(eq=False, kw_only=True)
class FileTransfer(TransferStream):
    """A transfer from file to file, checked and not yet run."""

    content: Recording
    style: StyleBlend
    out: Path
    options: TransferOptions
    tracks: list[MonoTrack]
    notes: tuple[str, ...]


class Player:
    """Plays contents with styles, by one model.

    Args:
        bundle: model, features and statistics.
        device: torch device.
        vocoder: folder of a vocoder, see `TimbreTransfer`.
        refiner: folder of a refiner.

    Raises:
        TimbreflowError: the bundle's model is none that transfers.
    """

    def __init__(
        self, bundle: ModelBundle, *, device: str | torch.device, vocoder: Path | None, refiner: Path | None
    ) -> None:
        self.device = torch.device(device)
        self.sample_rate = bundle.features.sample_rate
        self.synthesizer = Synthesizer(
            bundle,
            open_inverter(bundle.features, vocoder),
            device=self.device,
            refiner=open_refiner(refiner, bundle),
        )
        rate, hop = self.sample_rate, bundle.features.hop_length
        self.plan = ChunkPlan(
            length=round(CHUNK_SECONDS * rate / hop) * hop,
            fade=round(FADE_SECONDS * rate),
            margin=round(MARGIN_SECONDS * rate),
            max_lag=round(MAX_LAG_SECONDS * rate),
        )
        self.styles = Styles(bundle, self._features, frames=self.plan.length // hop)

    def open(self, content: Recording, styles: Sequence[Path], out: Path, options: TransferOptions) -> FileTransfer:
        """A transfer that can be run: content, style and output are found to be usable, nothing is written."""
        require_writable(out, content.sample_rate, content.channels, like=content.subtype)
        style = blend([self.styles.read(path) for path in styles], options.blend)
        tracks = self._tracks(content, style, options)
        return FileTransfer(
            tracks[0].stream.chunks,
            tracks[0].stream.request,
            content=content,
            style=style,
            out=out,
            options=options,
            tracks=tracks,
            notes=content.notes + style.notes,
        )

    def in_memory(
        self,
        content: Recording,
        style: StyleBlend,
        options: TransferOptions,
        *,
        progress: Progress | None,
        cancel: Cancel | None,
        decode: Decode | None = None,
    ) -> np.ndarray:
        """The result as an array [C, N]; `decode` stands in for the player's own."""
        tracks = self._tracks(content, style, options)
        streams = StreamBatches(decode or self.decode, batch_size=BATCH_SIZE)
        wets = []
        for number, track in enumerate(tracks):
            shown = share(progress, number, len(tracks))
            samples = self._samples(track, streams, track.stream, progress=shown, cancel=cancel)
            audio = np.concatenate(list(samples))
            wets.append(Wet([audio], self._gain(track, style, options, square_sum(audio)), track.channels))
        side = self._side(content, style, options)
        whole = np.concatenate([limited(b) for b in finished(content, wets, mix=options.mix, side=side)], axis=1)
        return np.ascontiguousarray(np.broadcast_to(whole, (content.channels, whole.shape[1])))

    def write(
        self,
        transfer: FileTransfer,
        streams: StreamBatches,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> TransferResult:
        """Decode a transfer and write its file; `streams` may hold those behind it."""
        content, style, out, options = transfer.content, transfer.style, transfer.out, transfer.options
        # The level is known only when all is generated: samples wait in unnamed files beside the output, not in
        # memory (nor in /tmp, which may be memory).
        with ExitStack() as scratch:
            wets = []
            for number, track in enumerate(transfer.tracks):
                stream = track.stream if number else transfer
                waiting = scratch.enter_context(scratch_beside(out))
                squares = 0.0
                shown = share(progress, number, len(transfer.tracks))
                for part in self._samples(track, streams, stream, progress=shown, cancel=cancel):
                    squares += square_sum(part)
                    waiting.write(np.ascontiguousarray(part, dtype=np.float32).data)
                wets.append(Wet(read_back(waiting), self._gain(track, style, options, squares), track.channels))
            n_over = 0
            side = self._side(content, style, options)
            with AudioWriter(out, content.sample_rate, content.channels, like=content.subtype) as writer:
                for block in finished(content, wets, mix=options.mix, side=side):
                    ask(cancel)
                    n_over += int(np.count_nonzero((np.abs(block) > 1.0).any(axis=0)))
                    writer.write(np.broadcast_to(limited(block), (content.channels, block.shape[1])))
        notes = list(transfer.notes)
        if n_over:
            level = "content" if options.loudness == "keep" else "style"
            notes.append(
                f"At the {level}'s level {n_over} of {content.n_samples} samples of {out} would be beyond full scale; "
                "they are bent below it."
            )
        if content.channels > 1 and options.stereo == "mono" and options.mix == 1:
            notes.append(f"The models are mono: all {content.channels} channels of {out} hold the same sound.")
        if options.fit_style:
            for reference in style.references:
                fitted = self.styles.fitted(reference.features, options)
                notes.append(
                    f"The style's likelihood went from {fitted.bits_per_dim_before:.3f} to "
                    f"{fitted.bits_per_dim_after:.3f} bits per dimension."
                )
        track = transfer.tracks[0]
        levels = Levels(track.content.gain, wets[0].gain, dynamics_of(track.content, track.stream.request))
        return TransferResult(out, content.seconds, content.sample_rate, content.channels, tuple(notes), levels)

    def request(
        self,
        style: StyleBlend,
        options: TransferOptions,
        *,
        tokens: Tensor | None = None,
        own_style: Tensor | None = None,
    ) -> DecodeRequest:
        """How a content is to sound; `tokens` and `own_style` as in `DecodeRequest`."""
        return DecodeRequest(
            style.features,
            options.temperature,
            options.seed,
            torch.Generator(self.device).manual_seed(options.seed),
            tokens=tokens,
            own_style=own_style,
            transpose=options.transpose,
            # A conversion holds the content's own playing already.
            expression="off" if options.mode == "convert" else options.expression,
            rises=(style.rise,),
        )

    def decode(self, chunks: Sequence[np.ndarray], requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
        """Sound of chunks [n], of their lengths."""
        return self.synthesizer.transfer(chunks, DecodeRequest.joined(requests))

    def _tracks(self, content: Recording, style: StyleBlend, options: TransferOptions) -> list[MonoTrack]:
        """What goes through the model: the mean of the channels, or each that sounds."""
        everywhere = range(content.channels)
        if options.stereo == "channels":
            alone = [(content.channel(number), [number]) for number in everywhere]
            parts: list[tuple[Recording, Sequence[int]]] = [(one, at) for one, at in alone if one is not None]
        elif options.stereo == "mid" and content.channels > 1:
            parts = [(replace(content, rms=content.mono_rms), everywhere)]
        else:
            parts = [(content, everywhere)]
        return [self._track(part, channels, style, options) for part, channels in parts]

    def _track(
        self, content: Recording, channels: Sequence[int], style: StyleBlend, options: TransferOptions
    ) -> MonoTrack:
        weakened = self.styles.weakened(content, style, options)
        request = self.request(
            weakened,
            options,
            tokens=self.styles.tokens(content, style, options),
            own_style=self.styles.features_of(content) if options.mode == "convert" else None,
        )
        blocks = content.mono(self.sample_rate)
        if (dynamics := dynamics_of(content, request)) is not None:
            blocks = dynamics.taken_out(blocks, self.sample_rate)
        stream = TransferStream(cut(blocks, self.plan), request)
        return MonoTrack(content, channels, stream, weakened.band if options.band == "full" else None)

    def _gain(self, track: MonoTrack, style: StyleBlend, options: TransferOptions, square_sum: float) -> float:
        """Factor that brings what the model made of a track to its level."""
        gain = output_gain(track.content, square_sum)
        return gain * style.level / track.content.level if options.loudness == "match" else gain

    @staticmethod
    def _side(content: Recording, style: StyleBlend, options: TransferOptions) -> float | None:
        """Factor of what the channels differ by; None where it is not kept."""
        if options.stereo != "mid" or content.channels == 1:
            return None
        return style.level / content.level if options.loudness == "match" else 1.0

    def _features(self, audio: np.ndarray) -> Tensor:
        """[B, N] sound at the feature rate -> [B, M, T] normalised features on the device."""
        return self.synthesizer.features(torch.from_numpy(np.ascontiguousarray(audio, np.float32)).to(self.device))

    def _samples(
        self,
        track: MonoTrack,
        streams: StreamBatches,
        stream: TransferStream,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[np.ndarray]:
        """[n] samples at the content's rate, as many as it has, not yet at its level."""
        content = track.content
        n_samples = max(1, round(content.n_samples * self.sample_rate / content.sample_rate))

        def generate() -> Iterator[np.ndarray]:
            done = 0
            ask(cancel)
            for part in overlap_add(streams.run(stream), self.plan, n_samples):
                ask(cancel)
                done += len(part)
                if progress is not None:
                    progress(done / n_samples)
                yield part

        parts = generate()
        if (dynamics := dynamics_of(content, stream.request)) is not None:
            parts = dynamics.put_back(parts, self.sample_rate)
        parts = resampled(parts, self.sample_rate, content.sample_rate)
        if track.band is not None:
            parts = track.band.extended(parts, content.sample_rate)
        return exactly(parts, content.n_samples)


def dynamics_of(content: Recording, request: DecodeRequest | None) -> Dynamics | None:
    """What is taken out of a content before the model and put back after it, if anything."""
    return Dynamics(content.frame_powers) if request is not None and request.expression == "on" else None


def square_sum(audio: np.ndarray) -> float:
    """Sum of the squares of all samples."""
    return float(np.sum(np.square(audio, dtype=np.float64)))
