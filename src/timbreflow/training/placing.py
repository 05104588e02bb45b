"""Models and batches on the device and in the precision of their training."""

from typing import Protocol, Self, TypeVar

import torch
from torch import nn

from timbreflow.training.fit_config import FitConfig


class Batch(Protocol):
    """Tensors that move together; one tensor will do."""

    def to(self, device: torch.device, /) -> Self:
        """The same examples on `device`."""

    def double(self) -> Self:
        """The same examples in float64."""


ModelT = TypeVar("ModelT", bound=nn.Module)
BatchT = TypeVar("BatchT", bound=Batch)


@torch.no_grad()  # the quantiser's library leaves a buffer that asks for gradients, and copies are made of leaves only
def place_model(model: ModelT, config: FitConfig, device: torch.device) -> ModelT:
    """Move a model; its parameters become float64 where `config.precision` says so."""
    return model.to(device, torch.float64 if config.precision == "float64" else None)


def place_batch(batch: BatchT, config: FitConfig, device: torch.device) -> BatchT:
    """The batch where its model is, in the precision of its parameters."""
    batch = batch.to(device)
    return batch.double() if config.precision == "float64" else batch
