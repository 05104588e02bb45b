"""Log-spectral distance (LSD): how far two sounds lie apart in every band of a mel spectrogram.

Lower is better; 0 means the same spectrogram up to a gain. It needs the true target, and it rewards the average of
all plausible answers, so a blurred but careful model scores well: read it together with the timbre distance.

Conventions:
    Signals [N] at 16 kHz, scaled to unit RMS. Mel power spectrogram of 128 bands, n_fft 2048, hop 512 (Slaney's
    scale and norm, Hann window, zero padding at the ends, as librosa does it), in dB, with everything more than
    80 dB under the peak raised to that floor.

Metrics:
    * :func:`lsd`: per band the root of the mean over time of the squared difference in dB, then the mean over bands.

Reference: Cífka, Ozerov, Şimşekli, Richard, *Self-Supervised VQ-VAE for One-Shot Music Style Transfer*, 2021.
"""

import librosa
import numpy as np
from numpy.typing import ArrayLike, NDArray

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.signals import mel_power, same_length

HOP_LENGTH = 512
DYNAMIC_RANGE_DB = 80.0


def mel_decibels(audio: ArrayLike) -> NDArray[np.float32]:
    """Mel spectrogram in dB of one signal [N] at 16 kHz, scaled to unit RMS first.

    Returns:
        [128, 1 + N // 512] dB, not lower than 80 dB under its own peak.
    """
    return np.asarray(
        librosa.power_to_db(mel_power(audio, hop_length=HOP_LENGTH), ref=1.0, top_db=DYNAMIC_RANGE_DB), dtype=np.float32
    )


def decibel_distance(estimate: ArrayLike, reference: ArrayLike) -> float:
    """LSD of two spectrograms in dB, both [M, T].

    Raises:
        TimbreflowError: the shapes differ.
    """
    first, second = np.asarray(estimate, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 2:
        raise TimbreflowError(f"LSD compares spectrograms of one shape [M, T]; got {first.shape} and {second.shape}.")
    return float(np.sqrt(np.mean(np.square(first - second), axis=1)).mean())


def lsd(estimate: ArrayLike, reference: ArrayLike) -> float:
    """Log-spectral distance in dB between two signals [N] at 16 kHz.

    >>> noise = np.random.default_rng(0).standard_normal(16_000)
    >>> lsd(noise, 0.1 * noise) < 1e-3
    True
    """
    first, second = same_length(estimate, reference)
    return decibel_distance(mel_decibels(first), mel_decibels(second))
