"""The band from 8 to 20 kHz, which the other metrics, at 16 kHz, do not hear.

Conventions:
    Signals [N] at 48 kHz, scaled to unit RMS. Mel power spectrogram of 38 bands from 8 to 20 kHz (Slaney's scale and
    norm, n_fft 2048, hop 512), in dB, with everything more than 80 dB under the loudest band of the target, from 0 to
    20 kHz, raised to that floor.

Metrics:
    * :func:`high_band_distance`: LSD of these bands (see :mod:`timbreflow.metrics.lsd`), and the mean difference.
"""

from functools import cache

import librosa
import numpy as np
from numpy.typing import ArrayLike, NDArray

from timbreflow.metrics.lsd import DYNAMIC_RANGE_DB, decibel_distance
from timbreflow.metrics.signals import N_FFT, unit_rms

SAMPLE_RATE = 48_000
HOP_LENGTH = 512
LOWEST, HIGHEST = 8_000.0, 20_000.0
N_MELS = 38
"""The widths of mel bands here go on from those of 128 bands below 8 kHz."""


def high_band_distance(estimate: ArrayLike, target: ArrayLike) -> tuple[float, float]:
    """LSD from 8 to 20 kHz in dB, and by how many dB the estimate is above the target there on average.

    Args:
        estimate: [N] at 48 kHz.
        target: [N] at 48 kHz.

    Raises:
        TimbreflowError: a signal is not valid, or their lengths differ by a frame or more.
    """
    spectra = [_power(signal) for signal in (estimate, target)]
    all_bands, high_bands = _filters()
    floor = max(float((all_bands @ spectra[1]).max()) * 10 ** (-DYNAMIC_RANGE_DB / 10), 1e-20)
    first, second = (10 * np.log10(np.maximum(high_bands @ power, floor)) for power in spectra)
    return decibel_distance(first, second), float(np.mean(first) - np.mean(second))


def _power(signal: ArrayLike) -> NDArray[np.float32]:
    spectrum = librosa.stft(unit_rms(signal), n_fft=N_FFT, hop_length=HOP_LENGTH)
    return np.asarray(np.square(np.abs(spectrum)), np.float32)


@cache
def _filters() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mel filters from 0 to 20 kHz and from 8 to 20 kHz."""
    low, high = (
        librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=n_mels, fmin=fmin, fmax=HIGHEST)
        for n_mels, fmin in ((128 + N_MELS, 0.0), (N_MELS, LOWEST))
    )
    return low, high
