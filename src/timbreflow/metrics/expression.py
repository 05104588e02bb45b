"""Expression: how much of tuning, vibrato, glides, dynamics and attacks of the content a transfer keeps.

Unlike the other metrics these have no true target: they are measured on sounds whose expression is known
(`benchmarks/expression.py`), on the content and on what was made of it.

Conventions:
    Signals [N] at 16 kHz, with their level: nothing is scaled. Times in s, pitch in cents re 440 Hz, levels in dB.

Metrics:
    * :func:`tuning`: cents by which all is sharp of 440 Hz.
    * :func:`vibrato`: depth in cents and rate in Hz of one steady note.
    * :func:`glide_error`: cents between the pitch paths of two sounds, octaves apart or not; a staircase of semitones
      along a smooth glide has 50.
    * :func:`level`, :func:`level_slope`: dB of a part, and dB of output for each dB of content.
    * :func:`rise_time`: ms from 10 to 90 % of an attack.
    * :func:`level_swing`: lowest and highest level of a sound that holds one, such as a drone over joined chunks.
    * :func:`weak_notes`: notes of a chord that are too soft against the strongest one.
    * :func:`low_share`: dB of the energy below a frequency in the whole.
"""

import librosa
import numpy as np
from numpy.typing import ArrayLike, NDArray

from timbreflow.metrics.signals import SAMPLE_RATE, validate

HOP = 160
"""Samples between two values of a pitch track: 10 ms."""
FRAME = 512
"""32 ms: of a vibrato at 6 Hz an average over longer ones loses depth."""
LOWEST, HIGHEST = 100.0, 2200.0
"""Range of pitch tracks, in Hz."""
AUDIBLE_DB = 30.0
"""Frames so far below the loudest have no pitch."""
DEEP_TROUGH = 0.1
"""YIN takes the first lag whose normalised difference falls below it."""
SMALLEST = 1e-12


def pitch_track(audio: ArrayLike) -> NDArray[np.float64]:
    """Pitch of a monophonic sound every 10 ms by YIN: [F] cents re 440 Hz, NaN where it is too soft.

    De Cheveigne and Kawahara 2002. librosa's has a compiled part that sometimes crashes the process.
    """
    sound = validate(audio)
    frames = librosa.util.frame(np.pad(sound.astype(np.float64), FRAME // 2), frame_length=FRAME, hop_length=HOP).T
    first, last, half = int(SAMPLE_RATE / HIGHEST), int(SAMPLE_RATE / LOWEST), FRAME // 2
    lags = np.arange(1, last + 2)
    difference = np.stack([np.square(frames[:, :half] - frames[:, lag : lag + half]).sum(1) for lag in lags], axis=1)
    normalized = difference * lags / (np.cumsum(difference, axis=1) + SMALLEST)
    inner = normalized[:, 1:-1]
    trough = (inner < normalized[:, :-2]) & (inner <= normalized[:, 2:]) & (lags[1:-1] >= first)
    deep = trough & (inner < DEEP_TROUGH)
    best = np.where(deep.any(1), deep.argmax(1), np.where(lags[1:-1] >= first, inner, np.inf).argmin(1)) + 1
    period = lags[best] + _vertex(*(normalized[np.arange(len(frames)), best + step] for step in (-1, 0, 1)))
    rms = librosa.feature.rms(y=sound, frame_length=FRAME, hop_length=HOP)[0]
    audible = rms > rms.max() * 10 ** (-AUDIBLE_DB / 20)
    return np.where(audible, 1200 * np.log2(SAMPLE_RATE / period / 440), np.nan)


def tuning(audio: ArrayLike) -> float:
    """Cents by which a sound is sharp of 440 Hz, in [-50, 50); also of chords."""
    magnitude = np.abs(librosa.stft(validate(audio), n_fft=8192)).astype(np.float64)
    left, middle, right = magnitude[:-2], magnitude[1:-1], magnitude[2:]
    frequency = (np.arange(1, len(magnitude) - 1)[:, None] + _vertex(left, middle, right)) * SAMPLE_RATE / 8192
    peak = (middle > left) & (middle >= right) & (frequency > 60) & (frequency < 2000)
    loud = peak & (middle > 0.1 * middle[peak].max())
    return 100.0 * float(librosa.pitch_tuning(frequency[loud], resolution=0.01))


def _vertex(left: NDArray[np.float64], middle: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the parabola through three values has its vertex: -1 to 1 step from the middle one."""
    curvature = left - 2 * middle + right
    return np.clip(0.5 * (left - right) / np.where(np.abs(curvature) < SMALLEST, np.inf, curvature), -1, 1)


def vibrato(audio: ArrayLike) -> tuple[float, float]:
    """Depth in cents (amplitude of the sine) and rate in Hz of the vibrato of one note, from 3 to 9 Hz.

    The mean over the note is taken, so a vibrato that begins late counts less.
    """
    track = pitch_track(audio)
    centre = np.nanmedian(track)
    # YIN errs by octaves where a note begins; a vibrato does not reach 3 semitones.
    track = np.where(np.abs(track - centre) < 300, track, np.nan)
    known = np.flatnonzero(np.isfinite(track))
    if len(known) < 50:
        return 0.0, 0.0
    cents = np.interp(np.arange(known[0], known[-1] + 1), known, track[known])
    time = np.arange(len(cents))
    cents -= np.polyval(np.polyfit(time, cents, 1), time)
    window = np.hanning(len(cents))
    spectrum = 2 * np.abs(np.fft.rfft(cents * window, 8192)) / window.sum()
    rates = np.fft.rfftfreq(8192, HOP / SAMPLE_RATE)
    band = np.flatnonzero((rates >= 3) & (rates <= 9))
    peak = band[np.argmax(spectrum[band])]
    return float(spectrum[peak]), float(rates[peak])


def glide_error(estimate: ArrayLike, reference: ArrayLike) -> float:
    """Cents within which nine tenths of the estimate's pitch track follow the reference's, octaves aside."""
    first, second = pitch_track(estimate), pitch_track(reference)
    difference = (first - second)[np.isfinite(first) & np.isfinite(second)]
    if not len(difference):
        return 600.0
    return float(np.quantile(np.abs((difference + 600) % 1200 - 600), 0.9))


def level(audio: ArrayLike, start: float = 0.0, stop: float | None = None) -> float:
    """Mean level in dB of the part [start, stop) s."""
    sound = validate(audio)[round(start * SAMPLE_RATE) : None if stop is None else round(stop * SAMPLE_RATE)]
    return 10 * float(np.log10(np.mean(np.square(sound, dtype=np.float64)) + SMALLEST))


def level_slope(estimate: ArrayLike, reference: ArrayLike) -> float:
    """Slope of levels [n] over reference levels [n], in dB/dB by least squares: 1 keeps all dynamics, 0 none."""
    return float(np.polyfit(np.asarray(reference, float), np.asarray(estimate, float), 1)[0])


def rise_time(audio: ArrayLike, onset: float, *, within: float = 0.15) -> float:
    """Milliseconds from 10 to 90 % of an attack: of the highest amplitude of the `within` s after an onset.

    The envelope is the root mean square of 4 ms of the analytic signal, so that nothing rises in less than some 3 ms.
    The sound must be soft before the onset, from 60 ms ahead of which it is looked at.
    """
    start = max(0, round((onset - 0.06) * SAMPLE_RATE))
    sound = validate(audio)[start : round((onset + within) * SAMPLE_RATE)].astype(np.float64)
    spectrum = np.fft.fft(sound, 2 * len(sound))
    spectrum[len(sound) + 1 :] = 0
    power = np.abs(2 * np.fft.ifft(spectrum)[: len(sound)]) ** 2
    envelope = np.sqrt(np.convolve(power, np.ones(64) / 64, mode="same"))
    peak = int(np.argmax(envelope))
    # Backwards from the peak: what sounded before the note may be louder than a tenth of it.
    below = np.flatnonzero(envelope[: peak + 1] < 0.1 * envelope[peak])
    first = int(below[-1]) if len(below) else 0
    high = first + int(np.argmax(envelope[first : peak + 1] >= 0.9 * envelope[peak]))
    return 1000 * (high - first) / SAMPLE_RATE


def level_swing(audio: ArrayLike, *, window: float = 0.25) -> tuple[float, float]:
    """Lowest and highest level of parts of `window` s, in dB against their median, the first and last second aside."""
    sound = validate(audio)[SAMPLE_RATE:-SAMPLE_RATE]
    length = round(window * SAMPLE_RATE)
    parts = sound[: len(sound) // length * length].reshape(-1, length)
    levels = 10 * np.log10(np.mean(np.square(parts, dtype=np.float64), axis=1) + SMALLEST)
    return float(levels.min() - np.median(levels)), float(levels.max() - np.median(levels))


def weak_notes(estimate: ArrayLike, reference: ArrayLike, pitches: ArrayLike, *, decibels: float = 15.0) -> int:
    """How many notes of a chord are softer than in the reference by more than `decibels`, the strongest note aside.

    A note's level is that of its first two partials; two chords are compared by levels under their strongest notes.

    Args:
        estimate: [N] the chord as it was made.
        reference: [N] the chord as it should be.
        pitches: MIDI numbers of its notes.
        decibels: what is too soft.
    """
    own, true = (_note_levels(sound, np.asarray(pitches, float)) for sound in (estimate, reference))
    return int(np.count_nonzero((own - own.max()) - (true - true.max()) < -decibels))


def _note_levels(audio: ArrayLike, pitches: NDArray[np.float64]) -> NDArray[np.float64]:
    sound = validate(audio).astype(np.float64)
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    cents = 1200 * np.log2(np.maximum(np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE), 1e-3) / 440)
    notes = 100 * (pitches - 69)
    partials = [np.abs(cents[:, None] - notes - octave) < 40 for octave in (0, 1200)]
    return 10 * np.log10(sum(power @ near for near in partials) + SMALLEST)


def low_share(audio: ArrayLike, *, below: float = 150.0) -> float:
    """Energy below a frequency in Hz as a share of the whole, in dB."""
    power = np.abs(np.fft.rfft(validate(audio).astype(np.float64))) ** 2
    low = power[np.fft.rfftfreq(len(validate(audio)), 1 / SAMPLE_RATE) < below].sum()
    return 10 * float(np.log10(low / max(power.sum(), SMALLEST) + SMALLEST))
