"""Models and batches on the device and in the precision of their training, and the number of loader processes."""

import logging
from typing import Literal, Protocol, Self, TypeVar

import torch
from torch import nn

from timbreflow.workers import local_process_count, worker_count

Precision = Literal["float32", "bfloat16", "float64"]

logger = logging.getLogger(__name__)


class Batch(Protocol):
    """Tensors that move together; one tensor will do."""

    def to(self, device: torch.device, /) -> Self:
        """The same examples on `device`."""

    def double(self) -> Self:
        """The same examples in float64."""


ModelT = TypeVar("ModelT", bound=nn.Module)
BatchT = TypeVar("BatchT", bound=Batch)


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 by instructions of its own; others emulate it, many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_precision(asked: Literal["auto", "float32", "bfloat16", "float64"], device: torch.device) -> Precision:
    """The precision of a training on this device: "auto" is bfloat16 where it is fast, else float32."""
    if asked == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    if asked == "bfloat16" and not has_bfloat16(device):
        logger.warning(
            "fit.precision is bfloat16, which this device has no instructions for and emulates: a step of the 2021 "
            "recipe took 11.3 s so, and 1.36 s in float32; set it to auto."
        )
    return asked


@torch.no_grad()  # the quantizer's library has a buffer that requires gradients, and only leaves can be copied
def place_model(model: ModelT, precision: str, device: torch.device) -> ModelT:
    """Move a model; its parameters become float64 where that is the precision."""
    return model.to(device, torch.float64 if precision == "float64" else None)


def place_batch(batch: BatchT, precision: str, device: torch.device) -> BatchT:
    """The batch on the device of its model, in the precision of the model's parameters."""
    batch = batch.to(device)
    return batch.double() if precision == "float64" else batch


def loader_workers(device: torch.device) -> int:
    """Loader processes: none beside a model on the CPU, where they would take its cores; else `worker_count`.

    Where torchrun has started several processes on this machine, they share that number.
    """
    return 0 if device.type == "cpu" else max(1, worker_count() // local_process_count())
