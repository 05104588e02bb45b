"""What inference and evaluation ask of every transfer model."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

Noise = Generator | Sequence[Generator] | None
"""Where noise comes from: one source for a batch, or one for each of its clips; None is torch's global one."""


@runtime_checkable
class TransferModel(Protocol):
    """A model that plays the notes of one spectrogram with the timbre of another."""

    def transfer(self, content: Tensor, style: Tensor, *, temperature: float = ..., generator: Noise = None) -> Tensor:
        """Transfer the timbre.

        Args:
            content: [B, M, T] normalised features that hold the notes; any T >= 1.
            style: [B, M, S] normalised features of the reference; any S >= 1.
            temperature: scale of the sampled noise; deterministic models ignore it.
            generator: source of the noise.

        Returns:
            [B, M, T] normalised features.
        """
        ...
