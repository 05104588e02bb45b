"""Sound effects as pure functions of a signal: overdrive, phaser, reverb, tremolo, equalizer.

Each takes `audio: [N] float32` and `sample_rate` in Hz and gives [N] float32. None keeps state or draws at random, so
the same parameters give the same bits. Levels are not corrected: the renderer sets the loudness afterwards.

Sources: U. Zölzer (ed.), *DAFX: Digital Audio Effects*, 2nd ed., Wiley 2011 (overdrive 4.3, phaser 2.4, tremolo 3.4);
J. A. Moorer, "About This Reverberation Business", Computer Music Journal 3(2), 1979; R. Bristow-Johnson, *Cookbook
formulae for audio EQ biquad filter coefficients*.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import scipy  # its parts are loaded when they are used: for scipy.signal, seconds

PHASER_STAGES = 6
PHASER_RANGE = (300.0, 3000.0)
"""Hz between which the notches of the phaser move."""

_CONTROL = 32
"""Samples between two values of the phaser's sweep; between them it is a straight line."""


def overdrive(audio: np.ndarray, sample_rate: int, *, gain_db: float) -> np.ndarray:
    """Amplify and clip softly with the cubic x - x^3 / 3, mixed with the dry signal as in SoX.

    Args:
        audio: [N] float32.
        sample_rate: in Hz.
        gain_db: amplification before the clipper, in dB.
    """
    driven = np.clip(audio * np.float32(10 ** (gain_db / 20)), -1.0, 1.0)
    clipped = driven - driven * driven * driven / np.float32(3)
    # A DC blocker at 10 Hz: clipping a lopsided wave leaves an offset.
    pole = 1 - 2 * np.pi * 10 / sample_rate
    centred = scipy.signal.lfilter(np.array([1, -1], np.float32), np.array([1, -pole], np.float32), clipped)
    return np.asarray(np.float32(0.25) * audio + np.float32(0.75) * centred, np.float32)


def tremolo(audio: np.ndarray, sample_rate: int, *, rate_hz: float, depth: float) -> np.ndarray:
    """Modulate the amplitude between 1 and 1 - depth by a sine.

    Args:
        audio: [N] float32.
        sample_rate: in Hz.
        rate_hz: of the sine.
        depth: in [0, 1].
    """
    swing = np.sin(np.arange(len(audio), dtype=np.float32) * np.float32(2 * np.pi * rate_hz / sample_rate))
    return audio * (np.float32(1 - depth / 2) + np.float32(depth / 2) * swing)


def phaser(audio: np.ndarray, sample_rate: int, *, rate_hz: float, feedback: float) -> np.ndarray:
    """Add the signal to itself after a chain of first-order allpasses whose corner frequency moves.

    Args:
        audio: [N] float32.
        sample_rate: in Hz.
        rate_hz: of that movement.
        feedback: part of the chain's output that is fed back into it, in [0, 1).
    """
    times = np.arange(len(audio) // _CONTROL + 2) * (_CONTROL / sample_rate)
    low, high = PHASER_RANGE
    corner = low * (high / low) ** (0.5 - 0.5 * np.cos(2 * np.pi * rate_hz * times))
    tangent = np.tan(np.pi * np.minimum(corner, 0.45 * sample_rate) / sample_rate)
    coefficients = ((tangent - 1) / (tangent + 1)).astype(np.float32)
    wet: np.ndarray = _compiled_allpasses()(audio.astype(np.float32), coefficients, np.float32(feedback))
    return (audio + wet) * np.float32(0.5)


def reverb(audio: np.ndarray, sample_rate: int, *, decay_seconds: float, wet: float, room: float) -> np.ndarray:
    """Convolve with noise that decays exponentially, darker than it is bright (Moorer 1979); the tail is cut at N.

    Args:
        audio: [N] float32.
        sample_rate: in Hz.
        decay_seconds: time in which the reverberation falls by 60 dB.
        wet: part of the reverberation in the result, in [0, 1].
        room: its integer part seeds the noise.
    """
    response = _room_response(sample_rate, decay_seconds, int(room))
    size = scipy.fft.next_fast_len(len(audio) + len(response) - 1, real=True)
    spectrum = scipy.fft.rfft(audio, size) * scipy.fft.rfft(response, size)
    reverberation = scipy.fft.irfft(spectrum, size)[: len(audio)]
    return np.asarray(np.float32(1 - wet) * audio + np.float32(wet) * reverberation, np.float32)


def equalizer(
    audio: np.ndarray, sample_rate: int, *, low_db: float, middle_db: float, middle_hz: float, high_db: float
) -> np.ndarray:
    """Low shelf at 250 Hz, one bell of an octave and a half, and high shelf at 4 kHz.

    Args:
        audio: [N] float32.
        sample_rate: in Hz.
        low_db: gain of the low shelf.
        middle_db: gain of the bell at `middle_hz`.
        middle_hz: centre of the bell.
        high_db: gain of the high shelf.
    """
    sections = np.stack(
        [
            _shelf(250.0, low_db, sample_rate, high=False),
            _bell(middle_hz, middle_db, sample_rate),
            _shelf(4000.0, high_db, sample_rate, high=True),
        ]
    )
    return np.asarray(scipy.signal.sosfilt(sections, audio), np.float32)


def _allpasses(audio: np.ndarray, coefficients: np.ndarray, feedback: np.float32) -> np.ndarray:
    before = np.zeros(PHASER_STAGES, np.float32)
    after = np.zeros(PHASER_STAGES, np.float32)
    wet = np.empty_like(audio)
    last = np.float32(0)
    for n in range(len(audio)):
        position = n // _CONTROL
        part = np.float32(n - position * _CONTROL) / np.float32(_CONTROL)
        coefficient = coefficients[position] + part * (coefficients[position + 1] - coefficients[position])
        value = audio[n] + feedback * last
        for stage in range(PHASER_STAGES):
            output = coefficient * (value - after[stage]) + before[stage]
            before[stage] = value
            after[stage] = output
            value = output
        last = value
        wet[n] = value
    return wet


@lru_cache(maxsize=1)
def _compiled_allpasses() -> Callable[..., Any]:
    from timbreflow.compiling import compiled  # half a second, and only the phaser needs it

    return compiled(_allpasses)


@lru_cache(maxsize=8)
def _room_response(sample_rate: int, decay_seconds: float, room: int) -> np.ndarray:
    times = np.arange(max(1, round(decay_seconds * sample_rate))) / sample_rate
    noise = np.random.default_rng(room).standard_normal(len(times))
    # Air and walls absorb high frequencies: a one-pole low-pass at 3 kHz.
    pole = np.exp(-2 * np.pi * 3000 / sample_rate)
    tail = scipy.signal.lfilter([1 - pole], [1, -pole], noise) * np.exp(-np.log(1000) * times / decay_seconds)
    response: np.ndarray = (tail / np.sqrt(np.sum(tail**2))).astype(np.float32)
    response.flags.writeable = False
    return response


def _bell(frequency: float, gain_db: float, sample_rate: int) -> np.ndarray:
    amplitude, angle = 10 ** (gain_db / 40), 2 * np.pi * min(frequency, 0.45 * sample_rate) / sample_rate
    alpha = np.sin(angle) / 2 * 1.04  # 1 / Q for 1.5 octaves
    boost, cut, middle = alpha * amplitude, alpha / amplitude, -2 * np.cos(angle)
    return np.array([1 + boost, middle, 1 - boost, 1 + cut, middle, 1 - cut]) / (1 + cut)


def _shelf(frequency: float, gain_db: float, sample_rate: int, *, high: bool) -> np.ndarray:
    amplitude, angle = 10 ** (gain_db / 40), 2 * np.pi * min(frequency, 0.45 * sample_rate) / sample_rate
    sign = -1 if high else 1
    cosine = sign * np.cos(angle)
    root = 2 * np.sqrt(amplitude) * np.sin(angle) / 2 * np.sqrt(2)  # slope 1
    more, less = amplitude + 1, amplitude - 1
    numerator = np.array([more - less * cosine + root, 2 * sign * (less - more * cosine), more - less * cosine - root])
    denominator = np.array(
        [more + less * cosine + root, -2 * sign * (less + more * cosine), more + less * cosine - root]
    )
    return np.concatenate((amplitude * numerator, denominator)) / denominator[0]
