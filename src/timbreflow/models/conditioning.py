"""Classifier-free style of condition dropout: a decoder that has seen each condition missing leans on neither alone."""

import torch
from torch import Tensor, nn

from timbreflow.parallel import own, whole


class ConditionDropout(nn.Module):
    """Replace the code, and independently the style tokens, of random clips by learned constants in training.

    Ho and Salimans 2022, *Classifier-Free Diffusion Guidance*, for the idea; here it hinders leaks (see docs).
    """

    def __init__(self, probability: float, *, code_dim: int, n_tokens: int, token_dim: int) -> None:
        super().__init__()
        self.probability = probability
        self.null_code = nn.Parameter(torch.zeros(1, code_dim, 1))
        self.null_tokens = nn.Parameter(torch.zeros(1, n_tokens, token_dim))

    def forward(self, code: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D, t], [B, K, D] -> the same shapes."""
        if not self.training or self.probability == 0:
            return code, tokens
        drop = own(torch.rand(2, whole(code.shape[0]), 1, 1, device=code.device) < self.probability, dim=1)
        return torch.where(drop[0], self.null_code.to(code.dtype), code), torch.where(
            drop[1], self.null_tokens.to(tokens.dtype), tokens
        )
