"""Where z comes from: a Gaussian whose mean and deviation the content decides."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

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


def sample_gaussian(mean: Tensor, log_sigma: Tensor, temperature: float, generator: Generator | None) -> Tensor:
    """The mean + temperature x sigma x noise; a temperature of 0 is the mean itself and draws nothing."""
    if temperature == 0:
        return mean
    device = mean.device if generator is None else generator.device
    noise = torch.randn(mean.shape, generator=generator, device=device, dtype=mean.dtype).to(mean.device)
    return mean + temperature * log_sigma.exp() * noise
