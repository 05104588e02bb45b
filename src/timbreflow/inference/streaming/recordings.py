"""What a transfer must know of a recording before it starts, measured in blocks so that length costs no memory."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import ArrayLike

from timbreflow.audio.files import SILENCE_DBFS, audio_info, require_valid, resample, stream_audio
from timbreflow.errors import TimbreflowError

TRAINING_DBFS = -23.0
"""RMS of the clips that every model was trained on; recordings are brought to it before a model sees them."""
TRAINING_PEAK = 0.99
BLOCK = 1 << 16
FRAME_SECONDS = 0.05
AUDIBLE_RANGE_DB = 40.0
"""A frame this far below the loudest one counts as a rest: it takes no part in levels and in choosing an excerpt."""
MOST_OVER = 64.0
"""Floating-point samples up to here (36 dB over full scale) are a recording that is too loud; larger ones are integers
that a program stored as they were, in 16, 24 or 32 bits."""
SHORTEST_SOUND = 0.1
"""Seconds that must be audible when samples are taken as integers; a single click is not the recording."""
LOUDEST_PEAK = 0.99
INTEGERS = {"int16": (0, 2**15), "int32": (0, 2**31), "uint8": (128, 2**7)}
"""Middle and full scale of the integers that sound is stored as."""
AUDIBLE_OFFSET = 0.01
"""A constant offset with this share of the power changes the level by .04 dB; smaller ones are left alone."""

Blocks = Callable[[], Iterable[np.ndarray]]
"""Starts a new pass over a recording: [C, n] float32 blocks."""


@dataclass(frozen=True)
class Recording:
    """A recording that can be read any number of times, and its levels.

    Args:
        name: what errors call it.
        blocks: starts a pass over it, in [C, n] blocks.
        sample_rate: in Hz.
        channels: C.
        n_samples: N, samples a channel.
        rms: over all samples of all channels, without a constant offset, which nobody hears.
        gain: factor that brings its audible part, mixed to mono, to the level of the training clips.
        frame_powers: [F] mean square of each `FRAME_SECONDS` of the mono mix.
        offset: constant offset of the mono mix that is taken out of it.
        subtype: libsndfile's name of how the samples are stored.
        notes: sentences on what of the recording is not taken as it is.
    """

    name: str
    blocks: Blocks
    sample_rate: int
    channels: int
    n_samples: int
    rms: float
    gain: float
    frame_powers: np.ndarray
    offset: float = 0.0
    subtype: str = "PCM_16"
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate

    @property
    def mono_rms(self) -> float:
        """RMS of the mono mix."""
        return math.sqrt(float(self.frame_powers.mean()))

    @property
    def level(self) -> float:
        """RMS of the audible part of the mono mix."""
        return math.sqrt(float(self.frame_powers[_audible(self.frame_powers)].mean()))

    def channel(self, number: int) -> "Recording | None":
        """One channel as a recording of its own; None where it is silent."""
        try:
            return measure(
                lambda: (block[number : number + 1] for block in self.blocks()), self.sample_rate, name=self.name
            )
        except TimbreflowError:  # the recording is sound as a whole: this channel can only be silent
            return None

    def active_part(self, seconds: float) -> tuple[float, float]:
        """Start and end, in s, of the most active part of at most so many seconds."""
        start, stop = _most_active(self.frame_powers, round(seconds / FRAME_SECONDS))
        frame = _frame_length(self.sample_rate) / self.sample_rate
        return start * frame, min(stop * frame, self.seconds)

    def mono(self, sample_rate: int) -> Iterator[np.ndarray]:
        """The mono mix at training level, [n] float32 blocks at `sample_rate` Hz."""
        mixed = ((block.mean(axis=0) - np.float32(self.offset)) * np.float32(self.gain) for block in self.blocks())
        return resampled(mixed, self.sample_rate, sample_rate)

    def excerpt(self, sample_rate: int, *, seconds: float) -> np.ndarray:
        """The most active part of the mono mix at training level.

        Args:
            sample_rate: in Hz.
            seconds: longest length of the excerpt.

        Returns:
            [n] float32.
        """
        start, stop = _most_active(self.frame_powers, round(seconds / FRAME_SECONDS))
        frame = _frame_length(self.sample_rate)
        start, stop = start * frame, min(stop * frame, start * frame + round(seconds * self.sample_rate))
        parts, position = [], 0
        for block in self.blocks():
            parts.append(block[:, max(0, start - position) : max(0, stop - position)].mean(axis=0))
            position += block.shape[1]
            if position >= stop:
                break
        mono = np.concatenate(parts) - np.float32(self.offset)
        return resample(mono * np.float32(_gain(mono, self.sample_rate)), self.sample_rate, sample_rate)


def open_recording(path: str | Path, *, minimum_seconds: float = 0.0) -> Recording:
    """Measure a sound file.

    Args:
        path: wav, flac, ogg or mp3.
        minimum_seconds: shorter recordings are refused.

    Raises:
        TimbreflowError: missing, empty, corrupt, NaN, silent or too short.
    """
    info = audio_info(path)
    recording = measure(
        lambda: stream_audio(path, block=BLOCK), info.sample_rate, name=str(path), minimum_seconds=minimum_seconds
    )
    return replace(recording, subtype=info.subtype, notes=info.notes + recording.notes)


def from_array(audio: ArrayLike, sample_rate: int, *, name: str, minimum_seconds: float = 0.0) -> Recording:
    """Measure a sound in memory; its notes and refusals are those of a file of the same samples.

    Args:
        audio: [N] or [C, N]; floating point in [-1, 1], int16, int32 or uint8.
        sample_rate: in Hz.
        name: what errors call it.
        minimum_seconds: shorter ones are refused.

    Raises:
        TimbreflowError: another shape or type, or as `open_recording`.
    """
    samples = np.asarray(audio)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and len(samples) > samples.shape[1]):
        raise TimbreflowError(
            f"{name} has shape {list(samples.shape)}; give [N], or [C, N] with the channels first (try audio.T)."
        )
    if not isinstance(sample_rate, int | np.integer) or sample_rate < 1:
        raise TimbreflowError(
            f"The sample rate of {name} is {sample_rate!r}; give a whole number of Hz, such as 44100."
        )
    if samples.dtype.name in INTEGERS:
        middle, full_scale = INTEGERS[samples.dtype.name]
        samples = (samples.astype(np.float64) - middle) / full_scale
    elif not np.issubdtype(samples.dtype, np.floating):
        raise TimbreflowError(f"{name} is {samples.dtype}; give floating point in [-1, 1], {', '.join(INTEGERS)}.")
    with np.errstate(over="ignore"):
        block = np.atleast_2d(samples).astype(np.float32)
    if block.size:
        require_valid(block, name)
    return measure(lambda: [block], int(sample_rate), name=name, minimum_seconds=minimum_seconds)


def measure(blocks: Blocks, sample_rate: int, *, name: str, minimum_seconds: float = 0.0) -> Recording:
    """Make one pass over a recording to learn its length and levels.

    Samples beyond full scale are brought below it, and a constant offset is taken out, as far as either would change
    the level of what is heard.

    Raises:
        TimbreflowError: the recording is silent, empty or too short, or its samples are larger than any program means.
    """
    sums = _Sums(_frame_length(sample_rate))
    for block in blocks():
        if block.size:
            sums.add(block)
    n_samples = sums.n_samples
    if n_samples == 0:
        raise TimbreflowError(f"{name} holds no samples; give a recording that is not empty.")
    if n_samples / sample_rate < minimum_seconds:
        raise TimbreflowError(
            f"{name} lasts {n_samples / sample_rate:.2f} s, which is too short; "
            f"give a recording of at least {minimum_seconds:g} s."
        )
    notes: list[str] = []
    offsets = sums.offsets()
    if offsets.any():
        worst = float(offsets[np.argmax(np.abs(offsets))])
        notes.append(f"{name} has a constant offset of {worst:.3g}, which is not heard and is taken out.")
    *peaks, mono_peak = np.maximum(sums.highest - offsets, offsets - sums.lowest)
    scale, note = _full_scale(float(max(peaks)), name)
    if note:
        notes.append(note)
        blocks = _scaled(blocks, scale)
    power = scale**2 * sums.power(offsets)
    frame_powers = scale**2 * sums.frame_powers(offsets)
    if scale < 1 / MOST_OVER and FRAME_SECONDS * np.sum(frame_powers > _power(SILENCE_DBFS)) < SHORTEST_SOUND:
        raise TimbreflowError(
            f"{name} holds a click of {max(peaks):.3g}, where full scale is 1, beside which all else is silent; "
            "remove it, or export the recording again from its source."
        )
    if frame_powers.max() < _power(SILENCE_DBFS):
        if power > _power(SILENCE_DBFS) or (scale**2 * sums.loudest_block > _power(SILENCE_DBFS) and not offsets.any()):
            raise TimbreflowError(f"The channels of {name} cancel when mixed to mono; give one of its channels alone.")
        raise TimbreflowError(f"{name} is silent; give a recording in which something sounds.")
    return Recording(
        name=name,
        blocks=blocks,
        sample_rate=sample_rate,
        channels=len(peaks),
        n_samples=n_samples,
        rms=math.sqrt(power),
        gain=_gain_of(frame_powers, scale * float(mono_peak)),
        frame_powers=frame_powers,
        offset=scale * float(offsets[-1]),
        notes=tuple(notes),
    )


class _Sums:
    """What one pass over a recording adds up; the last row of each array [C + 1] is the mono mix.

    Args:
        frame: samples of a frame.
    """

    def __init__(self, frame: int) -> None:
        self._frame = frame
        self._held = np.zeros(0, dtype=np.float32)
        self._powers: list[np.ndarray] = []
        self._means: list[np.ndarray] = []
        self.n_samples, self.square_sum, self.loudest_block = 0, 0.0, 0.0
        self.sums: np.ndarray = np.zeros(1)
        self.lowest: np.ndarray = np.full(1, math.inf)
        self.highest: np.ndarray = np.full(1, -math.inf)

    def add(self, block: np.ndarray) -> None:
        """Add a block [C, n]."""
        block_sum = float(np.sum(np.square(block, dtype=np.float64)))
        self.n_samples += block.shape[1]
        self.square_sum += block_sum
        self.loudest_block = max(self.loudest_block, block_sum / block.size)
        mono = block.mean(axis=0)
        rows = np.concatenate((block, mono[None]))
        self.sums = self.sums + rows.sum(axis=1, dtype=np.float64)
        self.lowest = np.minimum(self.lowest, rows.min(axis=1))
        self.highest = np.maximum(self.highest, rows.max(axis=1))
        held = np.concatenate((self._held, mono))
        whole = len(held) // self._frame * self._frame
        self._add_frames(held[:whole].reshape(-1, self._frame))
        self._held = held[whole:]

    def _add_frames(self, frames: np.ndarray) -> None:
        self._powers.append(_frame_powers(frames))
        self._means.append(np.asarray(np.mean(frames, axis=1, dtype=np.float64)))

    def offsets(self) -> np.ndarray:
        """Constant offset of each row, or zeros where it does not count in the level."""
        offsets = self.sums / self.n_samples
        share = float(np.mean(offsets[:-1] ** 2)) / max(1e-30, self.square_sum / self.n_samples / (len(offsets) - 1))
        # Of less than a frame nobody can tell an offset from a low tone.
        return offsets if self.n_samples > self._frame and share > AUDIBLE_OFFSET else np.zeros(len(offsets))

    def power(self, offsets: np.ndarray) -> float:
        """Mean square over all channels, without the offsets."""
        mean_square = self.square_sum / (self.n_samples * (len(offsets) - 1))
        return max(0.0, mean_square - float(np.mean(offsets[:-1] ** 2)))

    def frame_powers(self, offsets: np.ndarray) -> np.ndarray:
        """[F] mean squares of the mono mix, without its offset; the last frame may be a short one."""
        if len(self._held):
            self._add_frames(self._held[None])
            self._held = self._held[:0]
        powers, means, offset = np.concatenate(self._powers), np.concatenate(self._means), float(offsets[-1])
        return np.maximum(0.0, powers - 2 * offset * means + offset**2) if offset else powers


def _scaled(blocks: Blocks, scale: float) -> Blocks:
    return lambda: (block * np.float32(scale) for block in blocks())


def _full_scale(peak: float, name: str) -> tuple[float, str]:
    """Factor that brings samples of a peak to [-1, 1], and a note where it is not 1."""
    if peak <= 1.0:
        return 1.0, ""
    if peak <= MOST_OVER:
        return LOUDEST_PEAK / peak, (
            f"{name} goes to {peak:.3g} times full scale; it is taken as {20 * math.log10(peak / LOUDEST_PEAK):.1f} dB "
            "quieter, just below full scale."
        )
    for bits in (16, 24, 32):
        if peak <= 2.0 ** (bits - 1):
            return 2.0 ** (1 - bits), (
                f"{name} holds samples up to {peak:.0f} where full scale is 1; "
                f"they are taken as integers of {bits} bits."
            )
    raise TimbreflowError(
        f"{name} holds samples up to {peak:.3g}, where full scale is 1; it is damaged, export it again from its source."
    )


def resampled(blocks: Iterable[np.ndarray], source_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """Resample [n] float32 blocks as one signal, in constant memory.

    soxr takes its own delay out, so that the result begins where the source begins.
    """
    if source_rate == target_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block, dtype=np.float32))
    yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _power(dbfs: float) -> float:
    return float(10.0 ** (dbfs / 10.0))


def _frame_length(sample_rate: int) -> int:
    return max(1, round(FRAME_SECONDS * sample_rate))


def _frame_powers(frames: np.ndarray) -> np.ndarray:
    return np.asarray(np.mean(np.square(frames, dtype=np.float64), axis=1))


def _audible(frame_powers: np.ndarray) -> np.ndarray:
    return frame_powers > max(_power(SILENCE_DBFS), float(frame_powers.max()) * _power(-AUDIBLE_RANGE_DB))


def _gain_of(frame_powers: np.ndarray, peak: float) -> float:
    audible = frame_powers[_audible(frame_powers)]
    if not len(audible):
        return 1.0
    return min(math.sqrt(_power(TRAINING_DBFS) / float(audible.mean())), TRAINING_PEAK / peak)


def _gain(mono: np.ndarray, sample_rate: int) -> float:
    frame = _frame_length(sample_rate)
    whole = max(frame, len(mono) // frame * frame)
    padded = np.pad(mono, (0, max(0, whole - len(mono))))[:whole]
    return _gain_of(_frame_powers(padded.reshape(-1, frame)), float(np.abs(mono).max(initial=1e-9)))


def _most_active(frame_powers: np.ndarray, n_frames: int) -> tuple[int, int]:
    """Frames [start, stop) with the most audible frames; of equal ones the loudest, then the first."""
    if len(frame_powers) <= n_frames:
        return 0, len(frame_powers)
    audible = np.cumsum(np.concatenate(([0], _audible(frame_powers))))
    power = np.cumsum(np.concatenate(([0.0], frame_powers)))
    count = audible[n_frames:] - audible[:-n_frames]
    energy = power[n_frames:] - power[:-n_frames]
    start = int(np.argmax(np.where(count == count.max(), energy, -1.0)))
    return start, start + n_frames
