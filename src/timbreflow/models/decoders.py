"""Decoders of the VQ-VAE: content code and style tokens -> features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.blocks import FilmBlock, StyleAttention, pad_frames


class FilmDecoder(nn.Module):
    """Residual convolutions conditioned on the style twice.

    All tokens together scale and shift the activations of every block (FiLM); each content frame also attends to the
    single tokens, so that what depends on register or loudness need not pass one vector.
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
        n_strides: int,
    ) -> None:
        super().__init__()
        self.style = nn.Sequential(nn.Flatten(), nn.Linear(n_tokens * token_dim, width), nn.GELU())
        self.inlet = nn.Conv1d(code_dim, width, 3, padding=1)
        self.blocks = nn.ModuleList(FilmBlock(width, width, dilation=2 ** (i % 3)) for i in range(n_blocks))
        self.attention = StyleAttention(width, token_dim)
        self.ups = nn.ModuleList(nn.ConvTranspose1d(width, width, 4, stride=2, padding=1) for _ in range(n_strides))
        self.fine = nn.ModuleList(FilmBlock(width, width) for _ in range(n_strides))
        self.outlet = nn.Conv1d(width, n_features, 3, padding=1)

    def forward(self, code: Tensor, tokens: Tensor, frames: int) -> Tensor:
        """[B, D, t], [B, K, D] -> [B, M, frames]."""
        style = self.style(tokens)
        h = self.inlet(pad_frames(code, 1, minimum=2))
        for i, block in enumerate(self.blocks):
            if i == len(self.blocks) // 2:
                h = h + self.attention(h, tokens)
            h = block(h, style)
        for up, block in zip(self.ups, self.fine, strict=True):
            h = block(up(F.gelu(h)), style)
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
