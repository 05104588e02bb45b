"""An optional discriminator for the vocoder: is a log spectrogram of recorded or of generated sound?"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.vocoder import Vocoder
from timbreflow.training.losses import WINDOWS, stft_magnitude

CHANNELS = (1, 16, 32, 32, 32)
SLOPE = 0.1
FLOOR = 1e-3
"""Added to magnitudes before the logarithm."""


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over one log spectrogram; bins are halved at each layer, frames stay."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(inner, outer, (5, 3), stride=(2, 1), padding=(2, 1)))
            for inner, outer in pairwise(CHANNELS)
        )
        self.last = nn.Conv2d(CHANNELS[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[B, 1, bins, frames] -> a map of scores, and the activations of each layer."""
        activations = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            activations.append(x)
        return self.last(x), activations


class STFTDiscriminator(nn.Module):
    """A discriminator for each of three resolutions (Jang et al., *UnivNet*, 2021)."""

    def __init__(self) -> None:
        super().__init__()
        for length in WINDOWS:
            self.register_buffer(f"window_{length}", torch.hann_window(length), persistent=False)
        self.resolutions = nn.ModuleList(SpectrogramDiscriminator() for _ in WINDOWS)

    def forward(self, sound: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Sounds [B, N] float32 -> maps of scores, above 0 for true sound, and activations, of all resolutions."""
        scores: list[Tensor] = []
        activations: list[Tensor] = []
        for window, resolution in zip(self.buffers(), self.resolutions, strict=True):
            score, inner = resolution((stft_magnitude(sound, window) + FLOOR).log()[:, None])
            scores.append(score)
            activations += inner
        return scores, activations


class VocoderWithDiscriminator(nn.Module):
    """A vocoder and its discriminator as one module, so that one fit loop trains, averages and stores both."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder
        self.discriminator = STFTDiscriminator()

    def forward(self, features: Tensor) -> Tensor:
        """The vocoder's sound [B, N] for features [B, M, T]."""
        sound: Tensor = self.vocoder(features)
        return sound
