"""What a transfer must know of a recording before it starts, measured in blocks so that length costs no memory."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from timbreflow.audio.files import SILENCE_DBFS, audio_info, resample, stream_audio
from timbreflow.errors import TimbreflowError

TRAINING_DBFS = -23.0
"""RMS of the clips that every model was trained on; recordings are brought to it before a model sees them."""
TRAINING_PEAK = 0.99
BLOCK = 1 << 16
FRAME_SECONDS = 0.05
AUDIBLE_RANGE_DB = 40.0
"""A frame this far below the loudest one counts as a rest: it takes no part in levels and in choosing an excerpt."""

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
        rms: over all samples of all channels.
        gain: factor that brings its audible part, mixed to mono, to the level of the training clips.
        frame_powers: [F] mean square of each `FRAME_SECONDS` of the mono mix.
    """

    name: str
    blocks: Blocks
    sample_rate: int
    channels: int
    n_samples: int
    rms: float
    gain: float
    frame_powers: np.ndarray

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate

    def mono(self, sample_rate: int) -> Iterator[np.ndarray]:
        """The mono mix at training level, [n] float32 blocks at `sample_rate` Hz."""
        mixed = (block.mean(axis=0) * np.float32(self.gain) for block in self.blocks())
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
        mono = np.concatenate(parts)
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
    return measure(
        lambda: stream_audio(path, block=BLOCK), info.sample_rate, name=str(path), minimum_seconds=minimum_seconds
    )


def measure(blocks: Blocks, sample_rate: int, *, name: str, minimum_seconds: float = 0.0) -> Recording:
    """Make one pass over a recording and note its length and levels.

    Raises:
        TimbreflowError: the recording is silent, empty or too short.
    """
    frame = _frame_length(sample_rate)
    channels, n_samples, square_sum, peak, any_sound = 0, 0, 0.0, 0.0, False
    held = np.zeros(0, dtype=np.float32)
    powers: list[np.ndarray] = []
    for block in blocks():
        channels = block.shape[0]
        n_samples += block.shape[1]
        block_sum = float(np.sum(np.square(block, dtype=np.float64)))
        square_sum += block_sum
        any_sound = any_sound or block_sum / max(1, block.size) > _power(SILENCE_DBFS)
        mono = block.mean(axis=0)
        peak = max(peak, float(np.abs(mono).max(initial=0.0)))
        held = np.concatenate((held, mono))
        whole = len(held) // frame * frame
        powers.append(_frame_powers(held[:whole], frame))
        held = held[whole:]
    if n_samples == 0:
        raise TimbreflowError(f"{name} holds no samples; give a recording that is not empty.")
    if n_samples / sample_rate < minimum_seconds:
        raise TimbreflowError(
            f"{name} lasts {n_samples / sample_rate:.2f} s, which is too short; "
            f"give a recording of at least {minimum_seconds:g} s."
        )
    if len(held):
        powers.append(np.array([np.mean(np.square(held, dtype=np.float64))]))
    frame_powers = np.concatenate(powers)
    if frame_powers.max() < _power(SILENCE_DBFS):
        if any_sound:
            raise TimbreflowError(f"The channels of {name} cancel when mixed to mono; give one of its channels alone.")
        raise TimbreflowError(f"{name} is silent; give a recording in which something sounds.")
    return Recording(
        name=name,
        blocks=blocks,
        sample_rate=sample_rate,
        channels=channels,
        n_samples=n_samples,
        rms=math.sqrt(square_sum / (n_samples * channels)),
        gain=_gain_of(frame_powers, peak),
        frame_powers=frame_powers,
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


def _frame_powers(mono: np.ndarray, frame: int) -> np.ndarray:
    return np.asarray(np.mean(np.square(mono.reshape(-1, frame), dtype=np.float64), axis=1))


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
    return _gain_of(_frame_powers(padded, frame), float(np.abs(mono).max(initial=1e-9)))


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
