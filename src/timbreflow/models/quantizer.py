"""Vector quantisation of the content code."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.parallel import gather, own


@dataclass(frozen=True)
class QuantizerConfig:
    """Shape of the codebooks and how they move in training.

    Attributes:
        codebook_size: codes in each codebook.
        code_dim: length of a code vector, D.
        heads: the vector is cut into so many parts with a codebook each (product quantisation); 1 is the plain VQ of
            the 2021 paper. Chords need more than the 9-11 bits a frame that one codebook gives.
        distance: by which the nearest code is found; cosine compares directions only.
        decay: of the exponential moving average that moves the codes.
        dead_code_threshold: a code whose average number of vectors a batch falls below this is moved onto a vector
            of the batch. Keep it well under (batch x frames) / codebook_size.
        kmeans_iters: iterations of k-means on the first training batch.
    """

    codebook_size: int
    code_dim: int
    heads: int
    distance: Literal["euclidean", "cosine"]
    decay: float
    dead_code_threshold: float
    kmeans_iters: int

    def __post_init__(self) -> None:
        """Refuse what no codebook can be built from."""
        if self.codebook_size < 2 or self.heads < 1 or self.code_dim < 1 or self.code_dim % self.heads:
            raise TimbreflowError(
                f"quantizer: codebook_size {self.codebook_size} must be >= 2 and heads {self.heads} must divide "
                f"code_dim {self.code_dim}."
            )
        if self.codebook_size**self.heads > 2**62:
            raise TimbreflowError("quantizer: codebook_size ** heads exceeds 2 ** 62; use fewer heads.")


@dataclass(frozen=True)
class QuantizerOutput:
    """What the quantiser returns.

    Attributes:
        quantized: [B, D, t] float32, float64 of a float64 input; its gradient passes straight through to the input.
        codes: [B, t] int64 index of the product codebook: sum over heads h of index_h * codebook_size ** h.
        commitment_loss: scalar, mean squared distance of the input to its code (gradient to the input only).
        perplexity: scalar, exp of the entropy of the code use in this batch, mean over heads.
    """

    quantized: Tensor
    codes: Tensor
    commitment_loss: Tensor
    perplexity: Tensor


class Quantizer(nn.Module):
    """Nearest-code quantiser with moving-average codebooks, k-means start and revival of dead codes.

    Codebooks are buffers in the state dict. They move only in training mode; evaluation never touches them, not even
    when no batch has initialised them yet. Everything runs in float32 whatever autocast or `.double()` says.
    Arguments as in `QuantizerConfig`.

    van den Oord et al. 2017, *Neural Discrete Representation Learning*; the moving average is its appendix A.1.
    """

    def __init__(
        self,
        *,
        codebook_size: int,
        code_dim: int,
        heads: int,
        distance: Literal["euclidean", "cosine"],
        decay: float,
        dead_code_threshold: float,
        kmeans_iters: int,
    ) -> None:
        # Here, not above: it takes over a second, for which everything that only names a model would wait.
        from vector_quantize_pytorch import VectorQuantize

        super().__init__()
        self.codebook_size = codebook_size
        self.code_dim = code_dim
        self.heads = heads
        self.distance = distance
        self.vq = VectorQuantize(
            dim=code_dim,
            codebook_dim=code_dim // heads,
            codebook_size=codebook_size,
            heads=heads,
            separate_codebook_per_head=heads > 1,
            decay=decay,
            kmeans_init=True,
            kmeans_iters=kmeans_iters,
            threshold_ema_dead_code=dead_code_threshold,
            use_cosine_sim=distance == "cosine",
            rotation_trick=False,  # plain straight-through, as in the paper
            channel_last=False,
            sync_codebook=False,  # `forward` gives it the vectors of all processes
        )
        # The library starts from zeros until k-means has run; random codes keep an untrained model usable.
        codebook = torch.randn_like(self.vq._codebook.embed)
        if distance == "cosine":
            codebook = F.normalize(codebook, dim=-1)
        self.vq._codebook.embed.copy_(codebook)
        self.vq._codebook.embed_avg.copy_(codebook)

    @property
    def codebooks(self) -> Tensor:
        """[heads, codebook_size, code_dim / heads] float32."""
        return self.vq._codebook.embed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.vq.float()
        return self

    def forward(self, x: Tensor) -> QuantizerOutput:
        """Quantise x: [B, D, t]."""
        kind = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.training:
                # Moving averages, k-means and the revival of dead codes are those of the batch of all processes.
                x = gather(x)
                quantized, indices, loss = self.vq(x)
                indices = indices.reshape(x.shape[0], x.shape[-1], self.heads)
                loss = loss.reshape(())
            else:
                quantized, indices, loss = self._nearest(x)
        codes, perplexity = self._product_index(indices), self._perplexity(indices)
        if self.training:
            quantized, codes = own(quantized), own(codes)
        return QuantizerOutput(quantized.to(kind), codes, loss, perplexity)

    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look up the nearest codes without touching the codebooks: quantized [B, D, t], indices [B, t, H], loss."""
        batch, _, frames = x.shape
        parts = x.view(batch, self.heads, -1, frames).permute(1, 0, 3, 2).flatten(1, 2)  # [H, B t, d]
        if self.distance == "cosine":
            parts = F.normalize(parts, dim=-1, eps=1e-6)
            indices = (parts @ self.codebooks.transpose(1, 2)).argmax(-1)
        else:
            indices = torch.cdist(parts, self.codebooks).argmin(-1)
        found = torch.gather(self.codebooks, 1, indices[..., None].expand(-1, -1, parts.shape[-1]))
        loss = F.mse_loss(parts, found)
        found = parts + (found - parts).detach()
        quantized = found.view(self.heads, batch, frames, -1).permute(1, 0, 3, 2).flatten(1, 2)
        return quantized, indices.view(self.heads, batch, frames).permute(1, 2, 0), loss

    def _product_index(self, indices: Tensor) -> Tensor:
        powers = self.codebook_size ** torch.arange(self.heads, device=indices.device)
        return (indices * powers).sum(-1)

    def _perplexity(self, indices: Tensor) -> Tensor:
        counts = F.one_hot(indices.flatten(0, 1), self.codebook_size).float().mean(0)  # [H, codebook_size]
        entropy = -(counts * counts.clamp_min(1e-10).log()).sum(-1)
        return entropy.exp().mean()


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """An untrained quantiser."""
    return Quantizer(**asdict(config))
