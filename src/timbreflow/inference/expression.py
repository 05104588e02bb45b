"""Expression is content: tuning, vibrato, glides and dynamics are taken out before the model and put back after it.

Models learned from clips in tune, of steady pitch and one level: they answer +30 cents by 0, a glide by a staircase of
semitones and 20 dB by 2. So the content is read along a map of time on which its pitch is flat, the model's sound is
read back along the same map, and the slow part of the content's level is divided out and multiplied in again. Length
and timing are exact. The sound of a steady clip in tune goes through bit for bit. Attacks, which frames of 125 ms smear
to some 30 ms, get the rise of the style's own at the content's onsets.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
"""Cents in a frame, 50 semitones a second: faster is another note, not a glide. A vibrato of +-100 cents has 30."""
SHORTEST_RUN = 0.08
"""Seconds that a pitch must last."""
STEADY = 50.0
"""Cents within which nine tenths of a note lie that has neither vibrato nor glide. At 30 the vibrato of +-20 cents that
recorded violins have is kept too; on the set real, whose targets have none, pitch then costs .17 +- .08 dB of LSD and
not .07 +- .05."""
DWELL_SECONDS, STEP_BETWEEN = 0.12, 0.08
"""A pitch that rests on two notes for the first time each and is between them for less than the second plays two notes,
however smoothly they are tied."""
MONOPHONIC = 0.7
"""Share of the audible frames that must have a pitch, else only the tuning is looked at."""
IN_TUNE = 5.0
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
FALL_DB, CALM_SECONDS, CALM_DB = 6.0, 0.4, 2.5
"""A level that falls by the first within 200 ms and then stays within the last is that of a softer note, no decay."""
SLACK_DB = 3.0
"""The gain follows the level at this distance: the instrument's own differences between notes are not dynamics."""

SHORT_SECONDS, STEP_SECONDS = 0.016, 0.002
"""Windows in which attacks are seen, and their distance."""
BANDS = 16
FLUX_SECONDS, FLUX_DB = 0.012, 5.0
"""Mean rise of the bands within that time that is an onset."""
APART_SECONDS = 0.05
"""Onsets nearer to each other are one."""
SLOWEST_RISE = 0.025
"""Styles that rise more slowly are left as the model makes them."""
REACH_SECONDS = 0.06
"""Around an onset, in which the model's smeared rise lies."""
MOST_CUT_DB, MOST_BOOST_DB = 30.0, 18.0


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
    padded = np.pad(np.asarray(sound, np.float64), TAPS + 1)
    whole = np.floor(places).astype(np.int64)
    part = np.clip(places - whole, 1e-9, 1 - 1e-9)
    first = np.clip(whole + TAPS + 1, TAPS - 1, len(padded) - TAPS - 1)
    # sin and cos of all taps' distances from those of one: sinc times a Hann window.
    sine, angle = np.sin(np.pi * part) / np.pi, np.pi * part / TAPS
    cosine_of, sine_of = 0.5 * np.cos(angle), 0.5 * np.sin(angle)
    result = np.zeros(len(places))
    for tap in range(1 - TAPS, TAPS + 1):
        turn = math.pi * tap / TAPS
        window = 0.5 + math.cos(turn) * cosine_of + math.sin(turn) * sine_of
        result += (-1) ** tap * window / (part - tap) * padded[first + tap]
    return (result * sine).astype(np.float32)


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
        times, cents = _deviation(track, [note for run in runs for note in _notes(track.cents, run, offset)], offset)
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
    if len(sound) < size:  # too short to tell
        return np.zeros(0), np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(sound, np.float64), size)[:: size // 2]
    frames = frames * np.hanning(size)
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


def _notes(cents: NDArray[np.float64], run: slice, offset: float) -> list[slice]:
    """A run cut where a legato goes from note to note."""
    half = round(0.075 / HOP_SECONDS)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(cents[run], half, mode="edge"), 2 * half + 1)
    # A median takes vibrato away and keeps steps.
    place = (np.median(around, axis=1) - offset) / 100
    note = np.where(np.abs(place - np.round(place)) < 0.2, np.round(place), np.nan)
    edges = [0, *(np.flatnonzero(note[1:] != note[:-1]) + 1), len(note)]
    rests = [
        (start, stop)
        for start, stop in pairwise(edges)
        if np.isfinite(note[start]) and (stop - start) * HOP_SECONDS >= DWELL_SECONDS
    ]
    cuts = [
        run.start + (stop + start) // 2
        for (first, stop), (start, _) in pairwise(rests)
        if note[first] != note[start] and (start - stop) * HOP_SECONDS <= STEP_BETWEEN
    ]
    return [slice(int(start), int(stop)) for start, stop in pairwise([run.start, *cuts, run.stop])]


def _deviation(track: PitchTrack, runs: list[slice], offset: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cents from the notes at [K] times in s; between runs of one note lies the tuning."""
    times: list[NDArray[np.float64]] = [np.array([-1.0])]
    values: list[NDArray[np.float64]] = [np.array([offset])]
    for run in runs:
        cents, at = track.cents[run], track.times[run]
        note = 100 * np.round((np.median(cents) - offset) / 100)
        low, high = np.quantile(cents, [0.05, 0.95])
        if high - low < STEADY:
            cents = np.full(len(cents), note + offset)
        # Frames at an edge see another sound, too.
        edge = min(2, (len(cents) - 1) // 2)
        held = np.pad(cents[edge : len(cents) - edge], edge, mode="edge") - note
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
        audible = levels > levels.max() - AUDIBLE_DB
        first, behind = int(np.argmax(audible)), max(1, round(0.2 / seconds))
        held = slack = levels[first : first + behind].max()
        gain, since, calm = np.full(len(levels), slack), 0.0, round(CALM_SECONDS / seconds)
        for frame in range(first, len(levels)):
            level, since = levels[frame], since + seconds
            before = levels[max(0, frame - round(0.1 / seconds)) : frame].min(initial=level)
            fallen = levels[max(0, frame - behind) : frame].max(initial=level) - level > FALL_DB
            softer = fallen and audible[frame] and np.ptp(levels[frame : frame + calm]) < CALM_DB
            if level > held or level - before > ONSET_DB or softer:
                held, since = levels[frame : frame + behind].max(), 0.0
            elif since > HOLD_SECONDS and audible[frame]:
                held = max(level, held - RELEASE_DB * seconds)
            slack = min(max(slack, held - SLACK_DB), held + SLACK_DB)
            gain[frame] = slack
        # Divided by the gain, the audible part keeps its mean level.
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


def onsets(sound: Sound, sample_rate: int) -> list[int]:
    """Samples at which notes begin sharply in a sound [N], to some 2 ms."""
    levels = _band_levels(_spectra(sound, sample_rate))
    levels = np.maximum(levels, levels.max() - 60)
    wide, near = round(FLUX_SECONDS / STEP_SECONDS), round(APART_SECONDS / STEP_SECONDS)
    flux = np.maximum(0, levels[:, wide:] - levels[:, :-wide]).mean(axis=0)
    flux = flux[: max(0, len(flux) - round(SHORT_SECONDS / STEP_SECONDS))]  # a cut is no onset
    step = round(STEP_SECONDS * sample_rate)
    return [
        _steepest(sound, (int(frame) + wide // 2) * step, sample_rate)
        for frame in np.flatnonzero(flux > FLUX_DB)
        if flux[frame] >= flux[max(0, frame - near) : frame + near + 1].max()
    ]


def _steepest(sound: Sound, near: int, sample_rate: int) -> int:
    """Where within 20 ms the energy of 5 ms exceeds that of the 10 ms before most."""
    ahead, before, reach = (round(seconds * sample_rate) for seconds in (0.005, 0.01, 0.03))
    start = max(0, near - reach)
    part = np.asarray(sound[start : near + reach], np.float64)
    part = np.pad(part, (0, near + reach - start - len(part)))
    energy = np.cumsum(np.concatenate(([0.0], part**2)))
    at = np.arange(before, len(part) - ahead)
    floor = 1e-4 * energy[-1] + 1e-9
    rise = (energy[at + ahead] - energy[at] + floor) / (energy[at] - energy[at - before] + floor)
    return start + int(at[np.argmax(rise)])


def rise_seconds(style: Sound, sample_rate: int) -> float:
    """Median time from 10 to 90 % of the attacks of a style [N]; infinite where it has none that is sharp."""
    smooth = round(0.004 * sample_rate)
    rises = []
    for onset in onsets(style, sample_rate):
        part = style[max(0, onset - round(0.03 * sample_rate)) : onset + round(0.1 * sample_rate)]
        amplitude = np.sqrt(np.convolve(np.asarray(part, np.float64) ** 2, np.ones(smooth) / smooth, mode="same"))
        peak = int(np.argmax(amplitude))
        below = np.flatnonzero(amplitude[: peak + 1] < 0.1 * amplitude[peak])
        if len(below):
            rises.append(int(np.argmax(amplitude[below[-1] :] >= 0.9 * amplitude[peak])) / sample_rate)
    return float(np.median(rises)) if rises else math.inf


def sharpened(made: Sound, content: Sound, rise: float, sample_rate: int) -> Sound:
    """A model's sound [N] with attacks as sharp as the style's, where the content [N] has one.

    In each band the level before the onset stays what it was `REACH_SECONDS` ahead, and from the onset on it rises
    within the style's time to what the model reaches behind it.

    Args:
        made: what the model made.
        content: whose onsets count.
        rise: of the style, in s.
        sample_rate: of both sounds.
    """
    found = onsets(content, sample_rate) if rise <= SLOWEST_RISE else []
    if not found:
        return made
    spectrum = _spectra(made, sample_rate)
    levels = _band_levels(spectrum)
    change = np.zeros_like(levels)
    step, reach = round(STEP_SECONDS * sample_rate), round(REACH_SECONDS / STEP_SECONDS)
    for onset in found:
        middle = onset / step + 1  # windows see an onset ahead of it
        frames = np.arange(max(0, math.ceil(middle) - reach), min(levels.shape[1], math.ceil(middle) + reach + 1))
        start = int(np.searchsorted(frames, middle))
        if start in (0, len(frames)):
            continue
        own = levels[:, frames]
        before = own[:, :8].mean(axis=1, keepdims=True)
        peak = start + np.argmax(own[:, start:], axis=1)[:, None]
        after = np.take_along_axis(own, peak, axis=1)
        # Of a linear ramp 10 to 90 % is .8 of its length.
        ramp = np.clip((frames - middle) * STEP_SECONDS / (1.25 * max(rise, STEP_SECONDS)), 0.03, 1.0)
        wanted = np.where(frames < middle, np.minimum(own, before), np.maximum(before, after + 20 * np.log10(ramp)))
        gain = np.where(np.arange(len(frames)) > peak, 0, np.clip(wanted - own, -MOST_CUT_DB, MOST_BOOST_DB))
        # A band in which nothing begins stays as it is.
        change[:, frames] += np.where(after - before > ONSET_DB, gain, 0)
    gains = _bands(len(spectrum)).T @ torch.from_numpy(10 ** (change / 20) - 1).float()
    size = 2 * (len(spectrum) - 1)
    difference = torch.istft(gains * spectrum, size, step, window=torch.hann_window(size), length=len(made))
    return np.asarray(made + difference.numpy())


def _spectra(sound: Sound, sample_rate: int) -> Tensor:
    """[K, F] short spectra of a sound [N]."""
    size, step = (round(seconds * sample_rate) for seconds in (SHORT_SECONDS, STEP_SECONDS))
    padded = torch.from_numpy(np.pad(sound, (0, max(0, size - len(sound)))))
    return torch.stft(padded, size, step, window=torch.hann_window(size), return_complex=True)


def _band_levels(spectrum: Tensor) -> NDArray[np.float64]:
    """[BANDS, F] dB of spectra [K, F]."""
    power = spectrum.abs().square().double()
    return np.asarray(10 * torch.log10(_bands(len(power)).double() @ power + 1e-12).numpy())


def _bands(bins: int) -> Tensor:
    """[BANDS, K] triangles, wider to the top, that add up to 1 in each bin."""
    places = np.log1p(16 * np.arange(bins) / (bins - 1)) / np.log(17) * (BANDS - 1)
    return torch.from_numpy(np.maximum(0, 1 - np.abs(places - np.arange(BANDS)[:, None]))).float()
