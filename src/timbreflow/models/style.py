"""Style: a reference clip as tokens, and what is done to it in training so that only its timbre passes."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import ResidualBlock, pad_frames
from timbreflow.parallel import draw, draw_like


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
        max_bin_shift: in training the feature bins are shifted by up to so many bins, drawn for each clip; 0 is off.
        noise: standard deviation of Gaussian noise added to the tokens in training.
    """

    encoder: Literal["tokens", "gru"]
    width: int
    dim: int
    n_tokens: int
    n_blocks: int
    chunk_frames: int
    max_bin_shift: int
    noise: float

    def __post_init__(self) -> None:
        """Refuse a gru with several tokens."""
        if self.n_tokens < 1 or (self.encoder == "gru" and self.n_tokens != 1):
            raise TimbreflowError(
                f"style.n_tokens is {self.n_tokens}; use 1 with style.encoder gru and at least 1 with tokens."
            )


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
    order = draw(batch, lambda n: torch.rand(n, count, device=x.device)).argsort(1)
    order = order[:, None, :, None].expand_as(chunks)
    return torch.cat([chunks.gather(2, order).reshape(batch, bins, -1), x[..., count * chunk :]], dim=-1)


def shift_bins(x: Tensor, max_shift: int) -> Tensor:
    """Shift the bins of each clip by its own draw from -max_shift..max_shift; edge bins are repeated, not wrapped.

    Args:
        x: [B, M, S].
        max_shift: in bins.
    """
    batch, bins, _ = x.shape
    shift = draw(batch, lambda n: torch.randint(-max_shift, max_shift + 1, (n, 1), device=x.device))
    source = (torch.arange(bins, device=x.device)[None] - shift).clamp(0, bins - 1)
    return x.gather(1, source[..., None].expand_as(x))


class StyleEncoder(nn.Module):
    """A reference clip as tokens: [B, M, S] -> [B, K, D].

    The augmentations run in training mode only, from torch's global generator.

    Args:
        body: [B, M, S] -> [B, K, D] for S a multiple of 4 and at least 8.
        chunk_frames: see `StyleConfig`, as for the others.
        max_bin_shift: in bins.
        noise: deviation of the noise on the tokens.
    """

    def __init__(self, body: nn.Module, *, chunk_frames: int, max_bin_shift: int, noise: float) -> None:
        super().__init__()
        self.body = body
        self.chunk_frames = chunk_frames
        self.max_bin_shift = max_bin_shift
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """Encode x: [B, M, S], any S >= 1."""
        if self.training and self.chunk_frames:
            x = shuffle_chunks(x, self.chunk_frames)
        if self.training and self.max_bin_shift:
            x = shift_bins(x, self.max_bin_shift)
        tokens = self.body(pad_frames(x, 4, minimum=8))
        if self.training and self.noise:
            tokens = tokens + self.noise * draw_like(torch.randn_like, tokens)
        return tokens


class TokenStyleEncoder(nn.Module):
    """Convolutions at a quarter of the rate; each token is an attention-weighted mean over time."""

    def __init__(self, *, n_features: int, width: int, dim: int, n_tokens: int, n_blocks: int) -> None:
        super().__init__()
        self.in_proj = nn.Conv1d(n_features, width, 5, stride=2, padding=2)
        self.stride = nn.Conv1d(width, width, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width, dilation=2 ** (i % 3)) for i in range(n_blocks))
        self.scores = nn.Conv1d(width, n_tokens, 1)
        self.values = nn.Conv1d(width, n_tokens * dim, 1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, S] -> [B, K, D]."""
        h = self.stride(F.gelu(self.in_proj(x)))
        for block in self.blocks:
            h = block(h)
        h = F.gelu(h)
        weights = self.scores(h).float().softmax(-1)  # [B, K, s]
        values = self.values(h).unflatten(1, (weights.shape[1], -1))  # [B, K, D, s]
        return self.norm((values * weights[:, :, None].to(values.dtype)).sum(-1))


class GruStyleEncoder(nn.Module):
    """The 2021 paper's style encoder: two stride-2 convolutions and a GRU whose last state is the style."""

    def __init__(self, *, n_features: int, width: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(n_features, width, 4, stride=2, padding=1)
        self.conv2 = nn.Conv1d(width, width, 4, stride=2, padding=1)
        self.gru = nn.GRU(width, dim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, S] -> [B, 1, D]."""
        h = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2)
        _, last = self.gru(h.transpose(1, 2))
        return last.transpose(0, 1)


def build_style_encoder(config: StyleConfig, *, n_features: int) -> StyleEncoder:
    """The style encoder that the configuration names."""
    body: nn.Module
    if config.encoder == "gru":
        body = GruStyleEncoder(n_features=n_features, width=config.width, dim=config.dim)
    else:
        body = TokenStyleEncoder(
            n_features=n_features,
            width=config.width,
            dim=config.dim,
            n_tokens=config.n_tokens,
            n_blocks=config.n_blocks,
        )
    return StyleEncoder(body, chunk_frames=config.chunk_frames, max_bin_shift=config.max_bin_shift, noise=config.noise)
