"""Activation normalisation: an affine map of each channel."""

import torch
from torch import Tensor, nn

from timbreflow.models.glow.context import FlowContext, count_frames
from timbreflow.parallel import gather

_SMALLEST_STD = 1e-3


class ActNorm(nn.Module):
    """z = (x + shift) exp(log_scale), each channel by itself; log_det = frames x sum(log_scale).

    The data-dependent start is `initialize`, a pass of its own: `forward` never changes a parameter.
    Kingma and Dhariwal 2018, *Glow*, section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: FlowContext) -> Tensor:
        """Set shift and scale so that each channel of x, [B, C, t], leaves with mean 0 and deviation 1; return z."""
        weights = x.new_ones(x.shape[0], 1, x.shape[-1]) if context.mask is None else context.mask.to(x.dtype)
        everyone, weights = gather(x), gather(weights)  # the batches of all processes
        total = weights.sum().clamp_min(1)
        mean = (everyone * weights).sum((0, 2), keepdim=True) / total
        variance = ((everyone - mean) ** 2 * weights).sum((0, 2), keepdim=True) / total
        self.shift.copy_(-mean)
        self.log_scale.copy_(-variance.sqrt().clamp_min(_SMALLEST_STD).log())
        return self(x, context)[0]

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """[B, C, t] -> z [B, C, t], log_det [B]."""
        z = (x + self.shift) * self.log_scale.exp()
        return z, self.log_scale.sum() * count_frames(x, context)

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """[B, C, t] -> x."""
        del context
        return z * (-self.log_scale).exp() - self.shift
