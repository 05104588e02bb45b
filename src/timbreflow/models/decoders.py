"""Decoders of the VQ-VAE: content code and style tokens -> features."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.blocks import FilmBlock, StyleAttention, pad_frames, start_as_identity


class FilmDecoder(nn.Module):
    """Residual convolutions conditioned on the style in up to three ways.

    The K pooled tokens together scale and shift the activations of every block (FiLM); each content frame also attends
    to the single tokens, so that what depends on register or loudness need not pass one vector. With `frame_tokens` it
    looks up single frames of the style clip too, such as those of its own pitch, which no pooled token could hold
    (FragmentVC, Lin et al. 2021, arXiv 2010.14150). `n_far_blocks` blocks of dilation 8, 16 … hear how long ago a note
    began. Look-ups and far blocks start as the identity, so that weights from before they came can be trained on.
    """

    def __init__(
        self,
        *,
        n_features: int,
        code_dim: int,
        n_tokens: int,
        token_dim: int,
        width: int,
        n_blocks: int,
        n_far_blocks: int,
        n_strides: int,
        frame_tokens: bool,
    ) -> None:
        super().__init__()
        self.n_tokens = n_tokens
        self.style = nn.Sequential(nn.Flatten(), nn.Linear(n_tokens * token_dim, width), nn.GELU())
        self.inlet = nn.Conv1d(code_dim, width, 3, padding=1)
        self.blocks = nn.ModuleList(FilmBlock(width, width, dilation=2 ** (i % 3)) for i in range(n_blocks))
        self.far = nn.ModuleList(FilmBlock(width, width, dilation=8 * 2**i) for i in range(n_far_blocks))
        for block in self.far:
            start_as_identity(block.conv2)  # type: ignore[arg-type]
        self.attention = StyleAttention(width, token_dim)
        # One at the rate of the code, one at each finer rate.
        self.lookups = nn.ModuleList(
            StyleAttention(width, token_dim) for _ in range(1 + n_strides if frame_tokens else 0)
        )
        for lookup in self.lookups:
            start_as_identity(lookup.out)  # type: ignore[arg-type]
        self.ups = nn.ModuleList(nn.ConvTranspose1d(width, width, 4, stride=2, padding=1) for _ in range(n_strides))
        self.fine = nn.ModuleList(FilmBlock(width, width) for _ in range(n_strides))
        self.outlet = nn.Conv1d(width, n_features, 3, padding=1)

    def forward(self, code: Tensor, tokens: Tensor, frames: int) -> Tensor:
        """[B, D, t], [B, K, D] or [B, K + S, D] with S tokens of single frames -> [B, M, frames]."""
        pooled, single = tokens.tensor_split([self.n_tokens], dim=1)
        style = self.style(pooled)
        h = self.inlet(pad_frames(code, 1, minimum=2))
        for i, block in enumerate(self.blocks):
            if i == len(self.blocks) // 2:
                h = h + self.attention(h, pooled)
                for lookup in self.lookups[:1]:
                    h = h + lookup(h, single)
            h = block(h, style)
        for block in self.far:
            h = block(h, style)
        for up, block, lookup in itertools.zip_longest(self.ups, self.fine, self.lookups[1:]):
            h = up(F.gelu(h))
            h = block(h if lookup is None else h + lookup(h, single), style)
        return self.outlet(F.gelu(h))[..., :frames]


class GruDecoder(nn.Module):
    """The 2021 paper's decoder: at each level the style is concatenated, time is doubled and a GRU runs over it."""

    def __init__(self, *, n_features: int, code_dim: int, token_dim: int, width: int, n_strides: int) -> None:
        super().__init__()
        inputs = [code_dim, *[width] * (n_strides - 1)]
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(channels + token_dim, width, 4, stride=2, padding=1) for channels in inputs
        )
        self.grus = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in inputs)
        self.outlet = nn.Linear(width, n_features)

    def forward(self, code: Tensor, tokens: Tensor, frames: int) -> Tensor:
        """[B, D, t], [B, 1, D] -> [B, M, frames]."""
        h = code
        for up, gru in zip(self.ups, self.grus, strict=True):
            style = tokens.transpose(1, 2).to(h.dtype).expand(-1, -1, h.shape[-1])
            h = F.leaky_relu(up(torch.cat([h, style], dim=1)), 0.2)
            h = gru(h.transpose(1, 2))[0].transpose(1, 2)
        return self.outlet(h.transpose(1, 2)).transpose(1, 2)[..., :frames]
