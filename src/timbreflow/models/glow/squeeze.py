"""Time folded into channels, and channels split off; both are permutations, so log_det is 0."""

import torch
from torch import Tensor, nn


class Squeeze(nn.Module):
    """Two neighbouring frames become one with twice the channels: [B, C, t] <-> [B, 2 C, t / 2]."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, t] -> [B, 2 C, t / 2]; t even; channels of the earlier frame first."""
        batch, channels, frames = x.shape
        return x.view(batch, channels, frames // 2, 2).permute(0, 3, 1, 2).reshape(batch, 2 * channels, frames // 2)

    def inverse(self, z: Tensor) -> Tensor:
        """[B, 2 C, t / 2] -> [B, C, t]."""
        batch, channels, frames = z.shape
        return z.view(batch, 2, channels // 2, frames).permute(0, 2, 3, 1).reshape(batch, channels // 2, 2 * frames)


class Split(nn.Module):
    """Half of the channels go on to the next level, half are done."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, t] -> the half that goes on, the half that is done; [B, C / 2, t] each."""
        onward, done = x.chunk(2, dim=1)
        return onward, done

    def inverse(self, onward: Tensor, done: Tensor) -> Tensor:
        """The two halves -> [B, C, t]."""
        return torch.cat([onward, done], dim=1)
