"""Where z comes from: a Gaussian whose mean and deviation the content decides."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from timbreflow.models.base import Noise
from timbreflow.models.blocks import full_precision


class ConditionalPrior(nn.Module):
    """N(mu(c), sigma(c)) for each channel and frame of one level, c from the content only.

    The mean carries the notes; the style may enter z only through the couplings. Starts as the standard normal.
    Kim et al. 2020, *Glow-TTS*, for the idea.
    """

    def __init__(self, channels: int, context_channels: int, *, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.hidden = nn.Conv1d(context_channels, context_channels, 3, padding=1)
        self.outlet = nn.Conv1d(context_channels, 2 * channels, 1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]

    def forward(self, content: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, t] -> mean, log_sigma, each [B, channels, t] in float32."""
        mean, raw = full_precision(self.outlet(F.gelu(self.hidden(content)))).chunk(2, dim=1)
        return mean, self.bound * torch.tanh(raw / self.bound)


def gaussian_log_prob(z: Tensor, mean: Tensor, log_sigma: Tensor, mask: Tensor | None) -> Tensor:
    """Log-density of z, [B, C, t], summed over the channels and the frames that count: [B], in nats."""
    density = -0.5 * (math.log(2 * math.pi) + ((z - mean) * (-log_sigma).exp()) ** 2) - log_sigma
    if mask is not None:
        density = density * mask.to(density.dtype)
    return density.sum((1, 2))


def sample_gaussians(
    means: Sequence[Tensor], log_sigmas: Sequence[Tensor], temperature: float, noise: Noise
) -> list[Tensor]:
    """Mean + temperature x sigma x noise for each level; a temperature of 0 is the mean itself and draws nothing.

    Args:
        means: [B, C, t] each.
        log_sigmas: of the same shapes.
        temperature: 0 or more.
        noise: one source for all, or one for each clip, which then gets the same noise alone and in any batch.
    """
    if temperature == 0:
        return list(means)
    if noise is None or isinstance(noise, Generator):
        drawn = [_draw(mean, noise) for mean in means]
    else:
        clips = [[_draw(mean[i : i + 1], source) for mean in means] for i, source in enumerate(noise)]
        drawn = [torch.cat(level) for level in zip(*clips, strict=True)]
    return [
        mean + temperature * log_sigma.exp() * x for mean, log_sigma, x in zip(means, log_sigmas, drawn, strict=True)
    ]


def _draw(like: Tensor, source: Generator | None) -> Tensor:
    device = like.device if source is None else source.device
    return torch.randn(like.shape, generator=source, device=device, dtype=like.dtype).to(like.device)
