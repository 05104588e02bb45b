"""The timbre metric: a small network on MFCCs, trained so that clips of one timbre lie close in angle.

Cífka et al. 2021 (arXiv 2102.05749), after Lee et al. 2020: four blocks of convolution, batch normalisation, ReLU and
max-pooling, then the mean over time. It judges models; it is never a loss, an initialisation or a criterion.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import pad_frames


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
            raise TimbreflowError("triplet: kernels needs at least one positive length; mend it in params.yaml.")


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
