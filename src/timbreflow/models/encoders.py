"""Encoders of the content clip and of the style clip."""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import ResidualBlock, full_precision, pad_frames
from timbreflow.parallel import drawn_like, gather, own, whole


@dataclass(frozen=True)
class ContentConfig:
    """Shape of the content encoder and of its note head.

    Attributes:
        encoder: "residual" (convolution at full rate, stride-2 steps, residual blocks) or "strided" (the 2021
            paper's plain stride-2 convolutions).
        width: channels.
        downsample: frames of the clip for one frame of the code: 1, 2 or 4.
        n_blocks: residual blocks after the last stride-2 step ("strided" ignores it).
        instance_norm: normalise each channel over time by itself, which removes much of the timbre, and with it
            any note that sounds through the whole clip.
        roll_width: channels of the piano-roll head on the code; 0 leaves the head out.
        roll_hint: channels in which the decoder is also told what the head hears, beside the code; 0 tells it the
            code alone.
    """

    encoder: Literal["residual", "strided"]
    width: int
    downsample: int
    n_blocks: int
    instance_norm: bool
    roll_width: int
    roll_hint: int

    def __post_init__(self) -> None:
        """Refuse rates that the decoders cannot undo, and hints from no head."""
        if self.roll_hint and not self.roll_width:
            raise TimbreflowError("content.roll_hint needs a head; set content.roll_width above 0 in params.yaml.")
        if self.downsample not in (1, 2, 4):
            raise TimbreflowError(f"content.downsample is {self.downsample}; use 1, 2 or 4 in params.yaml.")
        if self.encoder == "strided" and self.downsample == 1:
            raise TimbreflowError("content.encoder strided needs downsample 2 or 4; mend it in params.yaml.")

    @property
    def n_strides(self) -> int:
        """Number of stride-2 steps."""
        return self.downsample.bit_length() - 1


@dataclass(frozen=True)
class StyleConfig:
    """Shape of the style encoder and what is done to the style in training.

    Attributes:
        encoder: "tokens" (convolutions and attention pooling) or "gru" (2021 paper: convolutions and a GRU whose last
            state is the one token).
        width: channels.
        dim: length of a token, D.
        n_tokens: tokens, K ("gru" always has one).
        n_blocks: residual blocks ("gru" ignores it).
        chunk_frames: in training the clip is cut into chunks of so many frames that are shuffled, so that no melody
            passes; 0 leaves the clip in order.
        roll_bins: in training the feature bins are shifted by up to so many bins, drawn for each clip; 0 is off.
        noise: standard deviation of Gaussian noise added to the tokens in training.
    """

    encoder: Literal["tokens", "gru"]
    width: int
    dim: int
    n_tokens: int
    n_blocks: int
    chunk_frames: int
    roll_bins: int
    noise: float

    def __post_init__(self) -> None:
        """Refuse a gru with several tokens."""
        if self.n_tokens < 1 or (self.encoder == "gru" and self.n_tokens != 1):
            raise TimbreflowError(
                f"style.n_tokens is {self.n_tokens}; use 1 with encoder gru and at least 1 with tokens in params.yaml."
            )


class ResidualContentEncoder(nn.Module):
    """Convolution at full rate, stride-2 convolutions, residual blocks, projection to the code."""

    def __init__(self, config: ContentConfig, *, n_features: int, code_dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.inlet = nn.Conv1d(n_features, width, 5, padding=2)
        self.strides = nn.ModuleList(nn.Conv1d(width, width, 4, stride=2, padding=1) for _ in range(config.n_strides))
        self.blocks = nn.ModuleList(
            ResidualBlock(width, dilation=2 ** (i % 3), instance_norm=config.instance_norm)
            for i in range(config.n_blocks)
        )
        self.outlet = nn.Conv1d(width, code_dim, 1)
        # Each channel of the code varies by 1 from the first step on. Without it the code is a constant and a little
        # change, few codes are used, and the decoders learn to do without the content (Lancucki et al. 2020,
        # "Robust Training of Vector Quantized Bottleneck Models").
        self.norm = nn.BatchNorm1d(code_dim, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, T] -> [B, D, ceil(T / downsample)]."""
        h = self.inlet(pad_frames(x, self.config.downsample, minimum=2 * self.config.downsample))
        for stride in self.strides:
            h = stride(F.gelu(h))
        for block in self.blocks:
            h = block(h)
        code = own(self.norm(gather(full_precision(self.outlet(F.gelu(h))))))
        return code[..., : -(-x.shape[-1] // self.config.downsample)]


class StridedContentEncoder(nn.Module):
    """Stride-2 convolutions only, as in the 2021 paper; the last one gives the code."""

    def __init__(self, config: ContentConfig, *, n_features: int, code_dim: int) -> None:
        super().__init__()
        self.config = config
        channels = [n_features, *[config.width] * (config.n_strides - 1), code_dim]
        self.strides = nn.ModuleList(nn.Conv1d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, T] -> [B, D, ceil(T / downsample)]."""
        h = pad_frames(x, self.config.downsample)
        for i, stride in enumerate(self.strides):
            h = stride(F.leaky_relu(h, 0.2) if i else h)
        return h


def build_content_encoder(config: ContentConfig, *, n_features: int, code_dim: int) -> nn.Module:
    """The content encoder that the configuration names: [B, M, T] -> [B, D, t]."""
    kind = ResidualContentEncoder if config.encoder == "residual" else StridedContentEncoder
    return kind(config, n_features=n_features, code_dim=code_dim)


def shuffle_chunks(x: Tensor, chunk: int) -> Tensor:
    """Shuffle the whole chunks of each clip in time, each clip in its own order; a remainder stays at the end.

    Args:
        x: [B, M, S].
        chunk: frames in a chunk.
    """
    batch, bins, frames = x.shape
    count = frames // chunk
    if count < 2:
        return x
    chunks = x[..., : count * chunk].reshape(batch, bins, count, chunk)
    order = own(torch.rand(whole(batch), count, device=x.device).argsort(1))[:, None, :, None].expand_as(chunks)
    return torch.cat([chunks.gather(2, order).reshape(batch, bins, -1), x[..., count * chunk :]], dim=-1)


def roll_bins(x: Tensor, largest: int) -> Tensor:
    """Shift the bins of each clip by its own draw from -largest..largest; the edge bins are repeated, not wrapped.

    Args:
        x: [B, M, S].
        largest: largest shift, in bins.
    """
    batch, bins, _ = x.shape
    shift = own(torch.randint(-largest, largest + 1, (whole(batch), 1), device=x.device))
    source = (torch.arange(bins, device=x.device)[None] - shift).clamp(0, bins - 1)
    return x.gather(1, source[..., None].expand_as(x))


class StyleEncoder(nn.Module):
    """A reference clip as tokens: [B, M, S] -> [B, K, D].

    The augmentations of `StyleConfig` run in training mode only, from torch's global generator.
    """

    def __init__(self, config: StyleConfig, *, n_features: int) -> None:
        super().__init__()
        self.config = config
        self.body: nn.Module
        if config.encoder == "tokens":
            self.body = _TokenBody(config, n_features)
        else:
            self.body = _GruBody(config, n_features)

    def forward(self, x: Tensor) -> Tensor:
        """Encode x: [B, M, S], any S >= 1."""
        config = self.config
        if self.training and config.chunk_frames:
            x = shuffle_chunks(x, config.chunk_frames)
        if self.training and config.roll_bins:
            x = roll_bins(x, config.roll_bins)
        tokens = self.body(pad_frames(x, 4, minimum=8))
        if self.training and config.noise:
            tokens = tokens + config.noise * drawn_like(torch.randn_like, tokens)
        return tokens


class _TokenBody(nn.Module):
    """Convolutions at a quarter of the rate; each token is an attention-weighted mean over time."""

    def __init__(self, config: StyleConfig, n_features: int) -> None:
        super().__init__()
        width = config.width
        self.inlet = nn.Conv1d(n_features, width, 5, stride=2, padding=2)
        self.stride = nn.Conv1d(width, width, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width, dilation=2 ** (i % 3)) for i in range(config.n_blocks))
        self.scores = nn.Conv1d(width, config.n_tokens, 1)
        self.values = nn.Conv1d(width, config.n_tokens * config.dim, 1)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stride(F.gelu(self.inlet(x)))
        for block in self.blocks:
            h = block(h)
        h = F.gelu(h)
        weights = self.scores(h).float().softmax(-1)  # [B, K, s]
        values = self.values(h).unflatten(1, (weights.shape[1], -1))  # [B, K, D, s]
        return self.norm((values * weights[:, :, None].to(values.dtype)).sum(-1))


class _GruBody(nn.Module):
    """The 2021 paper's style encoder: two stride-2 convolutions and a GRU whose last state is the style."""

    def __init__(self, config: StyleConfig, n_features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(n_features, config.width, 4, stride=2, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 4, stride=2, padding=1)
        self.gru = nn.GRU(config.width, config.dim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2)
        _, last = self.gru(h.transpose(1, 2))
        return last.transpose(0, 1)
