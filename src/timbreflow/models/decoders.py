"""Decoders: content code and style tokens -> features; and the dropout of these two conditions in training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.blocks import FilmBlock, StyleAttention, pad_frames
from timbreflow.parallel import draw


class ConditionDropout(nn.Module):
    """Replace the code, and independently the style tokens, of random clips by learned constants in training.

    A decoder that has seen each condition missing relies on neither alone. After Ho and Salimans 2022, *Classifier-Free
    Diffusion Guidance*.
    """

    def __init__(self, probability: float, *, code_dim: int, n_tokens: int, token_dim: int) -> None:
        super().__init__()
        self.probability = probability
        if probability:
            self.null_code = nn.Parameter(torch.zeros(1, code_dim, 1))
            self.null_tokens = nn.Parameter(torch.zeros(1, n_tokens, token_dim))

    def forward(self, code: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D, t], [B, K, D] -> the same shapes."""
        if not self.training or self.probability == 0:
            return code, tokens
        drawn = draw(len(code), lambda n: torch.rand(2, n, device=code.device).T)
        drop_code, drop_tokens = (drawn < self.probability)[..., None, None].unbind(1)
        return (
            torch.where(drop_code, self.null_code.to(code.dtype), code),
            torch.where(drop_tokens, self.null_tokens.to(tokens.dtype), tokens),
        )


class FilmDecoder(nn.Module):
    """Residual convolutions conditioned on the style twice.

    All tokens together scale and shift the activations of every block (FiLM); each content frame also attends to the
    single tokens, for what depends on register or loudness.
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
        self.in_proj = nn.Conv1d(code_dim, width, 3, padding=1)
        self.blocks = nn.ModuleList(FilmBlock(width, width, dilation=2 ** (i % 3)) for i in range(n_blocks))
        self.attention = StyleAttention(width, token_dim)
        self.ups = nn.ModuleList(nn.ConvTranspose1d(width, width, 4, stride=2, padding=1) for _ in range(n_strides))
        self.fine = nn.ModuleList(FilmBlock(width, width) for _ in range(n_strides))
        self.out_proj = nn.Conv1d(width, n_features, 3, padding=1)

    def forward(self, code: Tensor, tokens: Tensor, frames: int) -> Tensor:
        """[B, D, t], [B, K, D] -> [B, M, frames]."""
        style = self.style(tokens)
        h = self.in_proj(pad_frames(code, 1, minimum=2))
        for i, block in enumerate(self.blocks):
            if i == len(self.blocks) // 2:
                h = h + self.attention(h, tokens)
            h = block(h, style)
        for up, block in zip(self.ups, self.fine, strict=True):
            h = block(up(F.gelu(h)), style)
        return self.out_proj(F.gelu(h))[..., :frames]


class GruDecoder(nn.Module):
    """The 2021 paper's decoder: at each level the style is concatenated, time is doubled and a GRU runs over it."""

    def __init__(self, *, n_features: int, code_dim: int, token_dim: int, width: int, n_strides: int) -> None:
        super().__init__()
        inputs = [code_dim, *[width] * (n_strides - 1)]
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(channels + token_dim, width, 4, stride=2, padding=1) for channels in inputs
        )
        self.grus = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in inputs)
        self.out_proj = nn.Linear(width, n_features)

    def forward(self, code: Tensor, tokens: Tensor, frames: int) -> Tensor:
        """[B, D, t], [B, 1, D] -> [B, M, frames]."""
        h = code
        for up, gru in zip(self.ups, self.grus, strict=True):
            style = tokens.transpose(1, 2).to(h.dtype).expand(-1, -1, h.shape[-1])
            h = F.leaky_relu(up(torch.cat([h, style], dim=1)), 0.2)
            h = gru(h.transpose(1, 2))[0].transpose(1, 2)
        return self.out_proj(h.transpose(1, 2)).transpose(1, 2)[..., :frames]
