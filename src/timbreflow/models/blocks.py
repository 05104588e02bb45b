"""Small convolutional parts that the encoders, the decoders and the flow's context network share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError


def pad_frames(x: Tensor, multiple: int, *, minimum: int = 1) -> Tensor:
    """Repeat the last frame until the number of frames is a multiple of `multiple` and at least `minimum`.

    Args:
        x: [B, C, T].
        multiple: what the padded T is a multiple of.
        minimum: smallest padded T.

    Raises:
        TimbreflowError: x has no frames at all.
    """
    frames = x.shape[-1]
    if frames == 0:
        raise TimbreflowError("The clip is shorter than one analysis frame; give at least 0.1 s of sound.")
    wanted = math.ceil(max(frames, minimum) / multiple) * multiple
    return x if wanted == frames else F.pad(x, (0, wanted - frames), mode="replicate")


def change_rate(x: Tensor, old: int, new: int) -> Tensor:
    """Frames that cover `old` frames of the clip each -> frames that cover `new` each, by repetition or averaging.

    Args:
        x: [B, C, t].
        old: frames of the clip for one frame of x, a power of 2.
        new: the same for the result, a power of 2.
    """
    if old >= new:
        return x.repeat_interleave(old // new, dim=-1) if old > new else x
    return F.avg_pool1d(pad_frames(x, new // old), new // old)


def full_precision(x: Tensor) -> Tensor:
    """Half-precision tensors as float32; float32 and float64 pass unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def group_norm(channels: int, *, instance: bool = False, affine: bool = True) -> nn.GroupNorm:
    """Group normalisation with 8 groups where 8 divides the channels, or one group a channel (instance norm)."""
    return nn.GroupNorm(channels if instance else math.gcd(8, channels), channels, affine=affine)


class ResidualBlock(nn.Module):
    """norm, GELU, dilated convolution, norm, GELU, convolution, added to the input; keeps the number of frames."""

    def __init__(self, channels: int, *, dilation: int = 1, instance_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, instance=instance_norm)
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm2 = group_norm(channels, instance=instance_norm)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        h = self.conv1(F.gelu(self.norm1(x)))
        return x + self.conv2(F.gelu(self.norm2(h)))


class FilmBlock(nn.Module):
    """A residual block whose normalised activations are scaled and shifted by the style (FiLM, Perez et al. 2018)."""

    def __init__(self, channels: int, style_dim: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, affine=False)
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm2 = group_norm(channels, affine=False)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1)
        self.film = nn.Linear(style_dim, 4 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[B, C, T], [B, style_dim] -> [B, C, T]."""
        scale1, shift1, scale2, shift2 = self.film(style)[:, :, None].chunk(4, dim=1)
        h = self.conv1(F.gelu(self.norm1(x) * (1 + scale1) + shift1))
        return x + self.conv2(F.gelu(self.norm2(h) * (1 + scale2) + shift2))


class StyleAttention(nn.Module):
    """Each frame of the content looks up what it needs in the style tokens (multi-head cross-attention)."""

    def __init__(self, channels: int, token_dim: int, *, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.query = nn.Conv1d(channels, channels, 1)
        self.key_value = nn.Linear(token_dim, 2 * channels)
        self.out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """[B, C, T], [B, K, D] -> [B, C, T]: what the attention adds (the caller adds it to x)."""
        batch, channels, frames = x.shape
        query = self.query(self.norm(x)).view(batch, self.heads, -1, frames).transpose(2, 3)
        key, value = self.key_value(tokens).view(batch, tokens.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key.to(query.dtype), value.to(query.dtype))
        return self.out(found.transpose(2, 3).reshape(batch, channels, frames))
