"""Multi-resolution STFT distance: LSD's companion on the linear frequency scale, at three time-frequency trade-offs.

Lower is better; 0 means equal magnitudes up to a gain.

Conventions:
    Signals [N] at 16 kHz, scaled to unit RMS. Hann windows of 512, 1024 and 2048 samples, hop a quarter of each;
    magnitudes more than 80 dB under the reference's peak are raised to that floor, so that digital silence in one
    signal does not outweigh everything that sounds.

Metrics:
    * :func:`stft_distance`: spectral convergence plus mean absolute difference of natural log magnitudes, averaged
      over resolutions. Convergence divides by the reference, so the distance is not symmetric.

Reference: Yamamoto, Song, Kim, *Parallel WaveGAN*, 2020.
"""

import librosa
import numpy as np
from numpy.typing import ArrayLike

from timbreflow.metrics.signals import same_length, unit_rms

WINDOWS = (512, 1024, 2048)
FLOOR = 1e-4
"""80 dB under the peak, as a magnitude."""

SMALLEST = 1e-12
"""Keeps divisions and logarithms finite when the reference is silent."""


def stft_distance(estimate: ArrayLike, reference: ArrayLike) -> float:
    """Multi-resolution STFT distance of a signal [N] from a reference [N], both at 16 kHz."""
    first, second = (unit_rms(signal) for signal in same_length(estimate, reference))
    distances = []
    for n_fft in WINDOWS:
        a = np.abs(librosa.stft(first, n_fft=n_fft, hop_length=n_fft // 4))
        b = np.abs(librosa.stft(second, n_fft=n_fft, hop_length=n_fft // 4))
        floor = max(FLOOR * float(b.max()), SMALLEST)
        convergence = np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), SMALLEST)
        logarithm = np.abs(np.log(np.maximum(a, floor)) - np.log(np.maximum(b, floor))).mean()
        distances.append(float(convergence + logarithm))
    return float(np.mean(distances))
