"""The timbre metric: MFCC 2-13 of a sound, and a small network trained so that clips of one timbre lie close in angle.

Cífka et al. 2021 (arXiv 2102.05749), after Lee et al. 2020: four blocks of convolution, batch normalisation, ReLU and
max-pooling, then the mean over time. It judges models; it is never a loss, an initialisation or a criterion.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from timbreflow.audio.torchaudio_compat import transforms
from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import pad_frames

SAMPLE_RATE = 16_000
"""In Hz; sound at another rate is resampled by the caller."""

HOP_LENGTH = 500
N_COEFFICIENTS = 12
_SILENCE_RMS = 1e-7


@dataclass(frozen=True)
class TripletConfig:
    """Shape of the network.

    Attributes:
        n_coefficients: rows of the input; 12 for MFCC 2-13.
        channels: of every convolution, and length of the embedding.
        kernels: length of the convolution and of the max-pooling in each block.
    """

    n_coefficients: int
    channels: int
    kernels: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a network without blocks."""
        if not self.kernels or min(self.kernels) < 1:
            raise TimbreflowError("triplet: kernels needs at least one length, all of 1 or more.")


class TripletNetwork(nn.Module):
    """MFCC -> embedding; compare embeddings by their cosine."""

    def __init__(self, config: TripletConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = config.n_coefficients
        for kernel in config.kernels:
            layers += [
                _SameLengthConv1d(channels, config.channels, kernel),
                nn.BatchNorm1d(config.channels),
                nn.ReLU(),
                nn.MaxPool1d(kernel),
            ]
            channels = config.channels
        self.blocks = nn.Sequential(*layers)

    def embed(self, mfcc: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            mfcc: [B, n_coefficients, T]; clips shorter than the product of the poolings (128 frames by default) are
                filled up with their last frame.

        Returns:
            [B, channels], not normalised.
        """
        h: Tensor = self.blocks(pad_frames(mfcc, 1, minimum=math.prod(self.config.kernels)))
        return h.mean(-1)

    def forward(self, mfcc: Tensor) -> Tensor:
        """Same as `embed`."""
        return self.embed(mfcc)


class _SameLengthConv1d(nn.Conv1d):
    """What padding="same" gives: an even kernel gets one more zero on the right. torch warns of it at every call."""

    def forward(self, x: Tensor) -> Tensor:
        before = (self.kernel_size[0] - 1) // 2
        return super().forward(F.pad(x, (before, self.kernel_size[0] - 1 - before)))


class TimbreCoefficients(nn.Module):
    """MFCC 2-13 of sound at unit RMS; the first, which is loudness, is left out.

    Equal to `librosa.feature.mfcc(n_mfcc=13, hop_length=500)[1:]` up to rounding, batched and on any device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mfcc = transforms.MFCC(
            sample_rate=SAMPLE_RATE,
            n_mfcc=N_COEFFICIENTS + 1,
            melkwargs={
                "n_fft": 2048,
                "hop_length": HOP_LENGTH,
                "n_mels": 128,
                "norm": "slaney",
                "mel_scale": "slaney",
                "pad_mode": "constant",
            },
        )

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """[B, N] at 16 kHz -> [B, 12, N // 500 + 1]."""
        level = audio.square().mean(-1, keepdim=True).sqrt()
        audio = torch.where(level < _SILENCE_RMS, audio, audio / level.clamp_min(_SILENCE_RMS))
        # As [B, 1, N]: the floor 80 dB under the peak is then each clip's own and not the batch's.
        coefficients: Tensor = self.mfcc(audio[:, None])[:, 0, 1:]
        return coefficients


class TimbreEmbedder:
    """The trained metric as a function of sound.

    Args:
        network: trained; put into evaluation mode.
        device: where to compute.
    """

    def __init__(self, network: TripletNetwork, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.eval().to(self.device)
        self.coefficients = TimbreCoefficients().to(self.device)

    @torch.no_grad()
    def __call__(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed sound [B, N] at 16 kHz: [B, D] float32, not normalised."""
        sound = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(self.device)
        embedding = self.network(self.coefficients(sound))
        result: NDArray[np.float32] = embedding.float().cpu().numpy()
        return result
