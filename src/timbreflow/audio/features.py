"""From sound to the features that models see, and their normalisation.

Two kinds:

- `log_mel`: natural log of max(mel magnitude, floor); Slaney mel scale, triangles of peak 1, magnitude (not power).
- `log_stft`: log(1 + magnitude) of every bin, as in Cífka et al., *Self-Supervised VQ-VAE for One-Shot Music Style
  Transfer*, ICASSP 2021.

Frame t is centred on sample t * hop_length; the ends are padded with zeros. There are exactly N // hop_length frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from timbreflow.audio.torchaudio_compat import functional, transforms
from timbreflow.errors import TimbreflowError

HIGHEST_RATE = 768_000
"""Hz; no sound file has more."""
LONGEST_FFT = 1 << 17
"""Samples: settings of a stranger's model must not ask for any memory."""


@dataclass(frozen=True)
class FeatureConfig:
    """Shape and scale of the features.

    Args:
        kind: "log_mel" or "log_stft".
        sample_rate: in Hz.
        n_fft: length of the Fourier transform, in samples.
        win_length: length of the Hann window, in samples, at most n_fft.
        hop_length: samples from frame to frame, at most half of win_length, so that sound can be made from frames.
        n_mels: mel bands M (log_mel only).
        fmin: lower edge of the first mel band, in Hz (log_mel only).
        fmax: upper edge of the last mel band, in Hz, at most half of sample_rate (log_mel only).
        floor: smallest mel magnitude; less counts as silence (log_mel only). A full-scale sine has magnitude
            win_length / 4, so .01 lies 94 dB below it at win_length 2000, and about 75 dB below the loud
            partials of a clip at -23 dBFS RMS, and above the quantisation noise of 16 bits.

    Raises:
        TimbreflowError: two of the numbers contradict each other.
    """

    kind: Literal["log_mel", "log_stft"]
    sample_rate: int
    n_fft: int
    win_length: int
    hop_length: int
    n_mels: int
    fmin: float
    fmax: float
    floor: float

    def __post_init__(self) -> None:
        rules = {
            f"kind is {self.kind!r}, not log_mel or log_stft": self.kind in ("log_mel", "log_stft"),
            f"sample_rate must lie in 1..{HIGHEST_RATE}": 0 < self.sample_rate <= HIGHEST_RATE,
            f"n_fft must be at most {LONGEST_FFT}": self.n_fft <= LONGEST_FFT,
            f"win_length ({self.win_length}) must lie in 2..n_fft ({self.n_fft})": 2 <= self.win_length <= self.n_fft,
            f"hop_length ({self.hop_length}) must lie in 1..win_length / 2 ({self.win_length // 2})": (
                1 <= self.hop_length <= self.win_length // 2
            ),
            f"n_mels ({self.n_mels}) must lie in 1..{self.n_fft // 2 + 1}": 1 <= self.n_mels <= self.n_fft // 2 + 1,
            f"fmin ({self.fmin:g}) and fmax ({self.fmax:g}) must satisfy 0 <= fmin < fmax <= sample_rate / 2 "
            f"({self.sample_rate / 2:g})": 0 <= self.fmin < self.fmax <= self.sample_rate / 2,
            "floor must be positive": self.floor > 0,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise TimbreflowError(f"The audio section contradicts itself: {'; '.join(broken)}; change it.")

    @property
    def n_features(self) -> int:
        """M: rows of the feature matrix."""
        return self.n_mels if self.kind == "log_mel" else self.n_bins

    @property
    def n_bins(self) -> int:
        """Bins of the linear spectrum."""
        return self.n_fft // 2 + 1

    @property
    def seconds_per_frame(self) -> float:
        """hop_length in seconds."""
        return self.hop_length / self.sample_rate

    def n_frames(self, n_samples: int) -> int:
        """T: frames of a signal of n_samples."""
        return n_samples // self.hop_length


def mel_filterbank(config: FeatureConfig) -> Tensor:
    """Triangular mel filters of peak 1: [n_bins, n_mels] float32.

    Raises:
        TimbreflowError: a band is narrower than a bin and would always be empty.
    """
    bank: Tensor = functional.melscale_fbanks(
        config.n_bins, config.fmin, config.fmax, config.n_mels, config.sample_rate, norm=None, mel_scale="slaney"
    )
    empty = int((bank.amax(dim=0) <= 0).sum())
    if empty:
        raise TimbreflowError(
            f"{empty} of the {config.n_mels} mel bands hold no bin of a {config.n_fft}-point spectrum; "
            "lower n_mels or raise n_fft."
        )
    return bank


class FeatureExtractor(nn.Module):
    """Features of mono sound, on the device of the module, with gradients to the sound.

    Args:
        config: kind and shape of the features.

    Raises:
        TimbreflowError: the mel bands do not fit the spectrum.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.spectrogram = transforms.Spectrogram(
            n_fft=config.n_fft,
            win_length=config.win_length,
            hop_length=config.hop_length,
            power=1.0,
            center=True,
            # Zeros, not a reflection: a signal may be shorter than half a window.
            pad_mode="constant",
        )
        self.filterbank: Tensor | None
        self.register_buffer("filterbank", mel_filterbank(config) if config.kind == "log_mel" else None)

    def magnitude(self, audio: Tensor) -> Tensor:
        """Linear magnitude: [B, N] float -> [B, n_bins, N // hop_length]."""
        n_frames = self.config.n_frames(audio.shape[-1])
        if n_frames == 0:
            return audio.new_zeros(*audio.shape[:-1], self.config.n_bins, 0)
        magnitude: Tensor = self.spectrogram(audio)
        return magnitude[..., :n_frames]

    def forward(self, audio: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            audio: [B, N] float at config.sample_rate.

        Returns:
            [B, M, T] raw (not normalised), T = N // hop_length.
        """
        return self.from_magnitude(self.magnitude(audio))

    def from_magnitude(self, magnitude: Tensor) -> Tensor:
        """Features [B, M, T] of a linear magnitude [B, n_bins, T]."""
        if self.filterbank is None:
            return magnitude.log1p()
        mel = torch.matmul(self.filterbank.T, magnitude)
        return mel.clamp_min(self.config.floor).log()


@dataclass(frozen=True)
class Normalizer:
    """Mean 0 and deviation 1 for each row of the features, with statistics of the training split.

    Args:
        mean: [M] float32.
        std: [M] float32, positive.

    Raises:
        TimbreflowError: shapes differ, a value is not finite, or a deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape:
            raise TimbreflowError("Feature statistics must be two lists of one length; run extract_mels again.")
        finite = bool(torch.isfinite(self.mean).all() and torch.isfinite(self.std).all())
        if not finite or not bool((self.std > 0).all()):
            raise TimbreflowError("Feature statistics hold NaN or a deviation of 0; run extract_mels again.")

    @classmethod
    def from_statistics(cls, statistics: Mapping[str, Sequence[float] | Any]) -> "Normalizer":
        """Build from {"mean": [M], "std": [M]}, as statistics.json and a bundle's config.json hold them.

        Raises:
            TimbreflowError: a key is missing or the numbers make no statistics.
        """
        try:
            mean, std = (torch.tensor(statistics[key], dtype=torch.float32) for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError) as error:
            raise TimbreflowError("Feature statistics lack mean or std; run extract_mels again.") from error
        return cls(mean=mean, std=std)

    def statistics(self) -> dict[str, list[float]]:
        """{"mean": [M], "std": [M]} as plain numbers, for JSON."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def normalize(self, features: Tensor) -> Tensor:
        """Raw [..., M, T] -> normalised [..., M, T]."""
        return (features - self.mean.to(features)[:, None]) / self.std.to(features)[:, None]

    def denormalize(self, features: Tensor) -> Tensor:
        """Normalised [..., M, T] -> raw [..., M, T]."""
        return features * self.std.to(features)[:, None] + self.mean.to(features)[:, None]
