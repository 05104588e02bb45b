"""Checks and scaling of signals that all metrics share.

Conventions:
    Metrics take mono signals `[N]` float32 or float64 at 16 kHz and ignore loudness: both
    signals are scaled to unit RMS first. Silence stays as it is.
"""

from functools import cache

import librosa
import numpy as np
from numpy.typing import ArrayLike, NDArray

from timbreflow.errors import TimbreflowError

SAMPLE_RATE = 16_000
"""Sample rate of every metric, in Hz."""

N_FFT = 2048
N_MELS = 128

SILENCE_RMS = 1e-7
"""Below this RMS (-140 dBFS, under the last bit of 24) a signal counts as silent and is not scaled."""


def validate(audio: ArrayLike, *, name: str = "audio") -> NDArray[np.float32]:
    """Check one signal and return it as float32.

    Args:
        audio: [N] samples.
        name: what to call the signal in the message.

    Raises:
        TimbreflowError: the signal is not one-dimensional, is empty, or holds NaN or infinity.
    """
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim != 1:
        raise TimbreflowError(f"{name} has shape {samples.shape}; metrics take one mono signal [N] at a time.")
    if samples.size == 0:
        raise TimbreflowError(f"{name} is empty; metrics need at least one sample.")
    if not np.isfinite(samples).all():
        raise TimbreflowError(f"{name} holds NaN or infinite samples; look for the model or file that made them.")
    return samples


def unit_rms(audio: ArrayLike, *, name: str = "audio") -> NDArray[np.float32]:
    """Scale a signal [N] to a root mean square of 1; silence is returned as it is."""
    samples = validate(audio, name=name)
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return samples if level < SILENCE_RMS else (samples / level).astype(np.float32)


def mel_power(audio: ArrayLike, *, hop_length: int) -> NDArray[np.float32]:
    """Mel power spectrogram of one signal [N] at 16 kHz, scaled to unit RMS first.

    Equals `librosa.feature.melspectrogram` with 128 bands and n_fft 2048, but keeps the filters from call to call.

    Returns:
        [128, 1 + N // hop_length].
    """
    spectrum = np.abs(librosa.stft(unit_rms(audio), n_fft=N_FFT, hop_length=hop_length))
    return np.asarray(_mel_filters() @ np.square(spectrum), dtype=np.float32)


@cache
def _mel_filters() -> NDArray[np.float32]:
    return np.asarray(librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS), dtype=np.float32)


def same_length(estimate: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Check two signals [N] and cut the longer one to the shorter.

    Inversion may lose the samples of an unfinished frame; a difference of more than half a second is a mistake.

    Raises:
        TimbreflowError: a signal is unusable, or the lengths differ by more than half a second.
    """
    first, second = validate(estimate, name="the estimate"), validate(reference, name="the reference")
    if abs(len(first) - len(second)) > SAMPLE_RATE // 2:
        raise TimbreflowError(
            f"the estimate has {len(first)} samples and the reference {len(second)}; metrics compare equal lengths."
        )
    length = min(len(first), len(second))
    return first[:length], second[:length]
