"""Timbre distance: whether two sounds come from the same instrument, whatever they play.

Lower is better. Two measures stand beside each other because the first one is trained by this project.

Conventions:
    Signals [N] at 16 kHz, scaled to unit RMS. MFCC 2-13 (13 coefficients without the first, which is loudness) of
    librosa, hop 500.

Metrics:
    * :func:`cosine_distance` between embeddings of a triplet network (see `models/triplet.py`), whose weights are
      frozen before models are compared and are never part of a loss.
    * :func:`mfcc_distance`: without parameters, 1 - cosine of the mean and the deviation over time of MFCC 2-13.

Reference: Cífka et al. 2021 for the triplet metric; the MFCC distance is ours.
"""

import librosa
import numpy as np
from numpy.typing import ArrayLike, NDArray

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.signals import mel_power

HOP_LENGTH = 500
N_MFCC = 13


def mfcc_frames(audio: ArrayLike) -> NDArray[np.float32]:
    """MFCC 2-13 of one signal [N] at 16 kHz: [12, 1 + N // 500]."""
    decibels = librosa.power_to_db(mel_power(audio, hop_length=HOP_LENGTH))
    coefficients = librosa.feature.mfcc(S=decibels, n_mfcc=N_MFCC)
    return np.ascontiguousarray(coefficients[1:], dtype=np.float32)


def mfcc_statistics(audio: ArrayLike) -> NDArray[np.float64]:
    """Mean and standard deviation over time of MFCC 2-13 of one signal [N] at 16 kHz.

    Returns:
        [24]: 12 means, then 12 deviations.
    """
    coefficients = mfcc_frames(audio).astype(np.float64)
    return np.concatenate([coefficients.mean(axis=1), coefficients.std(axis=1)])


def cosine_distance(first: ArrayLike, second: ArrayLike) -> float:
    """1 - cosine of the angle between two vectors [D]: 0 same direction, 1 at right angles, 2 opposite.

    A zero vector has no direction: its distance is 0 to another zero vector and 1 to anything else.

    Raises:
        TimbreflowError: the vectors differ in length or hold NaN.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise TimbreflowError(f"cosine distance compares vectors of one length; got {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise TimbreflowError("an embedding holds NaN or infinity; train the timbre metric again.")
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if min(norms) == 0.0:
        return 0.0 if max(norms) == 0.0 else 1.0
    return float(np.clip(1.0 - (a / norms[0]) @ (b / norms[1]), 0.0, 2.0))


def mfcc_distance(estimate: ArrayLike, reference: ArrayLike) -> float:
    """Parameter-free timbre distance between two signals at 16 kHz; their lengths may differ."""
    return cosine_distance(mfcc_statistics(estimate), mfcc_statistics(reference))
