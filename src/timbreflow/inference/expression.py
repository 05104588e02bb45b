"""Expression is content: tuning, vibrato, glides and dynamics are taken out before the model and put back after it.

Models learned from clips in tune, of steady pitch and one level: they answer +30 cents by 0, a glide by a staircase of
semitones and 20 dB by 2. So the content is read along a map of time on which its pitch is flat, the model's sound is
read back along the same map, and the slow part of the content's level is divided out and multiplied in again. Length
and timing are exact. The sound of a steady clip in tune goes through bit for bit.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float32]

HOP_SECONDS = 0.008
WINDOW_SECONDS = 0.024
"""Of the pitch track. An average over longer windows takes depth from a vibrato: these keep .97 at 6 Hz."""
LOWEST, HIGHEST = 60.0, 2000.0
"""Fundamentals that are tracked, in Hz."""
APERIODIC = 0.15
"""YIN's threshold: what is less periodic has no pitch."""
AUDIBLE_DB = 40.0
"""Frames so far below the loudest one have neither pitch nor level."""
LARGEST_STEP = 40.0
"""Cents in a frame: 50 a second of semitones. Faster is another note, not a glide; a vibrato of +-100 cents has 30."""
SHORTEST_RUN = 0.08
"""Seconds that a pitch must last."""
STEADY = 20.0
"""Cents within which nine tenths of a note lie that has neither vibrato nor glide."""
MONOPHONIC = 0.7
"""Share of the audible frames that must have a pitch, else only the tuning is looked at."""
IN_TUNE = 3.0
"""Cents that are left alone."""
CLEAR = 0.45
"""Share of the partials that must lie within 12 cents of the tuning; .24 do by chance."""
TAPS = 16
"""Half the length of the interpolation filter."""

LEVEL_SECONDS = 0.05
ONSET_DB = 3.0
"""Rise within 100 ms that begins a note; its level is the highest of the 200 ms behind it, until the next."""
HOLD_SECONDS = 0.5
RELEASE_DB = 6.0
"""In a second: how fast a held level follows a sound that fades for longer than `HOLD_SECONDS`."""
SLACK_DB = 3.0
"""The gain follows the level at this distance: the instrument's own differences between notes are not dynamics."""


@dataclass(frozen=True, eq=False)
class TimeMap:
    """A map between the content's time and that in which its pitch is flat.

    Args:
        places: [N] where each sample of the content lies in flat time, in samples, increasing.
    """

    places: NDArray[np.float64]

    def flatten(self, sound: Sound) -> Sound:
        """Sound [N] of the content to [n] of flat pitch."""
        length = math.ceil(self.places[-1]) + 1
        return read_at(sound, np.interp(np.arange(length), self.places, np.arange(len(self.places))))

    def restore(self, sound: Sound) -> Sound:
        """What was made of it, [n], to the content's time and pitch [N]."""
        return read_at(sound, self.places)


def read_at(sound: Sound, places: NDArray[np.float64]) -> Sound:
    """A sound [N] at any places [n], in samples, by a windowed sinc; silence lies around it."""
    padded = np.pad(np.asarray(sound, np.float64), TAPS)
    whole = np.floor(places).astype(np.int64)
    part = places - whole
    result = np.zeros(len(places))
    for tap in range(1 - TAPS, TAPS + 1):
        distance = part - tap
        weight = np.sinc(distance) * np.cos(np.pi * distance / (2 * TAPS)) ** 2
        result += weight * padded[np.clip(whole + tap + TAPS, 0, len(padded) - 1)]
    return result.astype(np.float32)


def time_map(sound: Sound, sample_rate: int) -> TimeMap | None:
    """The map that makes a sound [N] in tune and its pitch flat; None where it is so already."""
    track = track_pitch(sound, sample_rate)
    runs = _runs(track)
    audible = int(track.audible.sum())
    if audible and sum(run.stop - run.start for run in runs) > MONOPHONIC * audible:
        # Of a vibrato all is equally far from the semitone, and only the middle of a note says its tuning.
        middles = np.array([np.median(track.cents[run]) for run in runs])
        weights = np.array([float(run.stop - run.start) for run in runs])
        offset = _mode(middles, weights)
        times, cents = _deviation(track, runs, offset)
    else:
        offset = _mode(*partials(sound, sample_rate))
        times, cents = np.zeros(1), np.full(1, offset)
    if np.abs(cents).max() < IN_TUNE:
        return None
    deviation = np.interp(np.arange(len(sound)) / sample_rate, times, cents)
    return TimeMap(np.concatenate(([0.0], np.cumsum(2 ** (deviation[:-1] / 1200)))))


@dataclass(frozen=True, eq=False)
class PitchTrack:
    """Pitch every `HOP_SECONDS`.

    Args:
        times: [F] in s.
        cents: [F] re 440 Hz.
        voiced: [F] whether there is a pitch.
        audible: [F] whether there is sound.
    """

    times: NDArray[np.float64]
    cents: NDArray[np.float64]
    voiced: NDArray[np.bool_]
    audible: NDArray[np.bool_]


def track_pitch(sound: Sound, sample_rate: int) -> PitchTrack:
    """Pitch of a sound [N] by YIN (de Cheveigné and Kawahara, JASA 2002), without its best local estimate."""
    window, longest = round(WINDOW_SECONDS * sample_rate), math.ceil(sample_rate / LOWEST) + 2
    hop, shortest = round(HOP_SECONDS * sample_rate), math.floor(sample_rate / HIGHEST)
    size = window + longest
    padded = np.pad(np.asarray(sound, np.float64), (0, max(0, size - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    n_fft = 1 << (size + window - 1).bit_length()
    head = np.fft.rfft(frames[:, :window], n_fft)
    products = np.fft.irfft(np.fft.rfft(frames, n_fft) * head.conj(), n_fft)[:, : longest + 1]
    energy = np.cumsum(np.pad(frames**2, ((0, 0), (1, 0))), axis=1)
    power = energy[:, window : window + longest + 1] - energy[:, : longest + 1]
    difference = np.maximum(power[:, :1] + power - 2 * products, 0)
    lags = np.arange(longest + 1)
    mean = np.cumsum(difference, axis=1) / np.maximum(lags, 1)
    normed = np.where(lags < shortest, 2.0, difference / np.maximum(mean, 1e-20))
    dip = (normed[:, 1:-1] < APERIODIC) & (normed[:, 1:-1] <= normed[:, 2:]) & (normed[:, 1:-1] < normed[:, :-2])
    voiced = dip.any(axis=1)
    lag = np.argmax(dip, axis=1) + 1
    rows = np.arange(len(frames))
    low, middle, high = (difference[rows, lag + step] for step in (-1, 0, 1))
    curve = low - 2 * middle + high
    period = lag + np.where(curve > 0, 0.5 * (low - high) / np.where(curve > 0, curve, 1), 0)
    period = np.maximum(period, 1)
    audible = power[:, 0] > max(float(power[:, 0].max()), 1e-12) * 10 ** (-AUDIBLE_DB / 10)
    times = (rows * hop + (window + period) / 2) / sample_rate
    return PitchTrack(times, 1200 * np.log2(sample_rate / period / 440), voiced & audible, audible)


def partials(sound: Sound, sample_rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Partials from 60 to 2000 Hz in spectra of half a second: cents re 440 Hz and amplitudes, [P] each."""
    size = sample_rate // 2
    padded = np.pad(np.asarray(sound, np.float64), (0, max(0, size - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 2] * np.hanning(size)
    logs = np.log(np.abs(np.fft.rfft(frames, 2 * size)) + 1e-9)
    low, middle, high = logs[:, :-2], logs[:, 1:-1], logs[:, 2:]
    peak = (middle > low) & (middle >= high) & (middle > logs.max() + math.log(0.03))
    place = 1 + np.arange(middle.shape[1]) + 0.5 * (low - high) / np.minimum(low - 2 * middle + high, -1e-12)
    frequency = place * sample_rate / (2 * size)
    chosen = peak & (frequency > LOWEST) & (frequency < HIGHEST)
    return 1200 * np.log2(frequency[chosen] / 440), np.exp(middle[chosen])


def _mode(cents: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Cents from the semitones at which most of [P] pitches lie, in [-50, 50); 0 where they do not agree."""
    if not len(cents) or weights.sum() <= 0:
        return 0.0
    grid = np.arange(-50, 50)
    apart = (cents[None] - grid[:, None] + 50) % 100 - 50
    density = (np.exp(-0.5 * (apart / 5) ** 2) * weights).sum(axis=1)
    apart = apart[int(np.argmax(density))]
    near = np.abs(apart) < 12
    if weights[near].sum() < CLEAR * weights.sum():
        return 0.0
    offset = float(grid[int(np.argmax(density))] + np.average(apart[near], weights=weights[near]))
    return (offset + 50) % 100 - 50


def _runs(track: PitchTrack) -> list[slice]:
    """Frames of pitches that last, each without a jump."""
    joined = track.voiced[1:] & track.voiced[:-1] & (np.abs(np.diff(track.cents)) < LARGEST_STEP)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], joined.astype(np.int8), [0]))))
    return [
        slice(int(start), int(stop) + 1)
        for start, stop in edges.reshape(-1, 2)
        if (stop - start) * HOP_SECONDS >= SHORTEST_RUN
    ]


def _deviation(track: PitchTrack, runs: list[slice], offset: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cents from the notes at [K] times in s: each run has one note, and between runs lies the tuning."""
    times: list[NDArray[np.float64]] = [np.array([-1.0])]
    values: list[NDArray[np.float64]] = [np.array([offset])]
    for run in runs:
        cents, at = track.cents[run], track.times[run]
        note = 100 * np.round((np.median(cents) - offset) / 100)
        low, high = np.quantile(cents, [0.05, 0.95])
        if high - low < STEADY:
            cents = np.full(len(cents), note + offset)
        # Two frames at an edge see another sound, too.
        held = np.pad(cents[2:-2], 2, mode="edge") - note
        smooth = np.convolve(np.pad(held, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
        times += [at[:1] - 0.02, at, at[-1:] + 0.02]
        values += [np.array([offset]), smooth, np.array([offset])]
    merged = np.concatenate(times)
    order = np.argsort(merged, kind="stable")
    return merged[order], np.concatenate(values)[order]


class Dynamics:
    """The slow part of a recording's level: a gain that notes and phrases have, but not the decay of a note.

    Args:
        powers: [F] mean square of each `seconds` of a recording.
        seconds: length of a frame.
    """

    def __init__(self, powers: NDArray[np.float64], *, seconds: float = LEVEL_SECONDS) -> None:
        levels = 10 * np.log10(np.maximum(powers, 1e-20))
        levels = np.maximum(levels, levels.max() - AUDIBLE_DB)
        gain = np.zeros(len(levels))
        held, since, slack = levels[0], 0.0, 0.0
        behind = max(1, round(0.2 / seconds))
        for frame, level in enumerate(levels):
            before = levels[max(0, frame - round(0.1 / seconds)) : frame].min(initial=level)
            since += seconds
            if level > held or level - before > ONSET_DB:
                held, since = levels[frame : frame + behind].max(), 0.0
            elif since > HOLD_SECONDS:
                held = max(level, held - RELEASE_DB * seconds)
            slack = held if frame == 0 else min(max(slack, held - SLACK_DB), held + SLACK_DB)
            gain[frame] = slack
        # Divided by the gain, the audible part keeps its mean level.
        audible = levels > levels.max() - AUDIBLE_DB
        powers_left = 10 ** ((levels - gain)[audible] / 10)
        self._gain = gain - 10 * math.log10(np.mean(10 ** (levels[audible] / 10)) / np.mean(powers_left))
        self._seconds = seconds

    @classmethod
    def of(cls, sound: Sound, sample_rate: int) -> "Dynamics":
        """Those of a sound [N] in memory."""
        frame = round(LEVEL_SECONDS * sample_rate)
        padded = np.pad(np.asarray(sound, np.float64), (0, -len(sound) % frame))
        return cls(np.mean(padded.reshape(-1, frame) ** 2, axis=1))

    def taken_out(self, blocks: Iterable[Sound], sample_rate: int) -> Iterator[Sound]:
        """The recording in blocks [n], divided by the gain."""
        return self._applied(blocks, sample_rate, np.divide)

    def put_back(self, blocks: Iterable[Sound], sample_rate: int) -> Iterator[Sound]:
        """What was made of it, in blocks [n], multiplied by the gain."""
        return self._applied(blocks, sample_rate, np.multiply)

    def _applied(self, blocks: Iterable[Sound], sample_rate: int, apply: np.ufunc) -> Iterator[Sound]:
        start = 0
        for block in blocks:
            yield apply(block, self.gains(start, len(block), sample_rate))
            start += len(block)

    def gains(self, start: int, length: int, sample_rate: int) -> Sound:
        """[length] factors of the samples from `start` on; the level changes just ahead of an onset."""
        times = (start + np.arange(length)) / sample_rate / self._seconds
        decibels = np.interp(times, np.arange(len(self._gain)), self._gain)
        return (10 ** (decibels / 20)).astype(np.float32)
