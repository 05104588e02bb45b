"""An optional judge of the vocoder: is this log spectrogram of true sound or of made sound, at three resolutions?"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from timbreflow.models.vocoder import Vocoder

WINDOWS = (512, 1024, 2048)
CHANNELS = (1, 16, 32, 32, 32)
SLOPE = 0.1
LIFT = 1e-3
"""Added to magnitudes before the logarithm."""

Judgement = tuple[list[Tensor], list[Tensor]]
"""Scores and inner activations, resolutions in turn."""


class SpectrogramJudge(nn.Module):
    """Convolutions over one log spectrogram; bins are halved at each layer, frames stay."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(inner, outer, (5, 3), stride=(2, 1), padding=(2, 1)))
            for inner, outer in pairwise(CHANNELS)
        )
        self.last = nn.Conv2d(CHANNELS[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Judgement:
        """[B, 1, bins, frames] -> a map of scores, and what each layer saw."""
        seen = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            seen.append(x)
        return [self.last(x)], seen


class STFTDiscriminator(nn.Module):
    """A judge for each resolution (Jang et al., *UnivNet*, 2021)."""

    def __init__(self) -> None:
        super().__init__()
        for length in WINDOWS:
            self.register_buffer(f"window_{length}", torch.hann_window(length), persistent=False)
        self.judges = nn.ModuleList(SpectrogramJudge() for _ in WINDOWS)

    def forward(self, sound: Tensor) -> Judgement:
        """Judge sounds [B, N] float32: scores above 0 say true."""
        scores: list[Tensor] = []
        seen: list[Tensor] = []
        for length, judge in zip(WINDOWS, self.judges, strict=True):
            spectrum = torch.stft(
                sound,
                length,
                length // 4,
                window=self.get_buffer(f"window_{length}"),
                center=True,
                pad_mode="constant",
                return_complex=True,
            )
            found, activations = judge((spectrum.abs() + LIFT).log()[:, None])
            scores += found
            seen += activations
        return scores, seen


class JudgedVocoder(nn.Module):
    """A vocoder and its discriminator as one module, so that one fit loop trains, averages and stores both.

    Args:
        vocoder: what is kept after the training.
    """

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder
        self.discriminator = STFTDiscriminator()

    def forward(self, features: Tensor) -> Tensor:
        """What the vocoder makes of features."""
        sound: Tensor = self.vocoder(features)
        return sound


def adversarial_terms(discriminator: nn.Module, made: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Hinge losses of both sides, whose sum may be minimised by one optimizer.

    The discriminator's loss sees the made sound as a constant; the vocoder's losses see the discriminator's weights as
    constants. So neither moves the other's weights.

    Args:
        discriminator: an STFTDiscriminator.
        made: [B, N] sound of the vocoder.
        true: [B, N].

    Returns:
        Scalars "gan/discriminator", "gan/vocoder" and "gan/feature_matching".
    """
    real_scores, real_seen = discriminator(true)
    fake_scores, _ = discriminator(made.detach())
    frozen = {name: tensor.detach() for name, tensor in discriminator.state_dict(keep_vars=True).items()}
    hoped_scores, hoped_seen = functional_call(discriminator, frozen, (made,))
    hinges = [
        F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in zip(real_scores, fake_scores, strict=True)
    ]
    matches = [F.l1_loss(hoped, real.detach()) for hoped, real in zip(hoped_seen, real_seen, strict=True)]
    return {
        "gan/discriminator": torch.stack(hinges).mean(),
        "gan/vocoder": -torch.stack([score.mean() for score in hoped_scores]).mean(),
        "gan/feature_matching": torch.stack(matches).mean(),
    }
