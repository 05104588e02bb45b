"""How much two sounds have the same notes, whatever their timbre: for checks and benchmarks, not for tables."""

from functools import cache

import librosa
import numpy as np
from numpy.typing import ArrayLike, NDArray

from timbreflow.metrics.signals import SAMPLE_RATE, same_length, unit_rms

_CHROMA_FFT = 4096
_CHROMA_HOP = 512
_AUDIBLE = 1e-4
"""Frames whose chroma energy lies this far below the loudest one's are rests: they have no notes to compare."""


def chroma_similarity(estimate: ArrayLike, reference: ArrayLike) -> float:
    """Whether two signals [N] at 16 kHz sound the same pitch classes at the same time: 1 the same, 0 never.

    Mean over time of the cosine of the chroma vectors, over frames where either signal sounds; where only one does, 0.
    """
    first, second = (_chroma(signal) for signal in same_length(estimate, reference))
    energies = np.linalg.norm(first, axis=0), np.linalg.norm(second, axis=0)
    audible = [energy > _AUDIBLE * energy.max(initial=0.0) for energy in energies]
    counted = audible[0] | audible[1]
    if not counted.any():
        return 1.0
    cosines = (first * second).sum(axis=0) / np.maximum(energies[0] * energies[1], 1e-12)
    return float(np.where(audible[0] & audible[1], cosines, 0.0)[counted].mean())


def _chroma(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    # Power, not magnitude, so that partials, which differ between timbres, weigh little beside fundamentals.
    spectrum = np.square(np.abs(librosa.stft(unit_rms(signal), n_fft=_CHROMA_FFT, hop_length=_CHROMA_HOP)))
    return np.asarray(_chroma_filters() @ spectrum, dtype=np.float32)


@cache
def _chroma_filters() -> NDArray[np.float32]:
    return np.asarray(librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=_CHROMA_FFT, tuning=0.0), dtype=np.float32)
