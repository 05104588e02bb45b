"""One training in several processes that `torchrun` started: each holds an equal part of every batch.

The result is that of one process with the whole batch, up to rounding, by one rule for all layers and losses:

- Where examples of a batch meet (batch normalisation, codebooks with their k-means, moving averages and revival, the
  first values of actnorm, contrastive terms), `gather` the batch of all processes, compute, and keep the `own` part.
- Where random numbers are drawn, each process `draw`s alike for the whole batch and keeps its own part.
- `average_gradients` makes the mean of the parts' gradients, which is the whole batch's.

The price: such a layer costs each process as much as the whole batch does, and an all-gather forward and an all-reduce
backward. In the released VQ-VAE, batch normalisation and quantiser are 5 % of a step's CPU time, so eight processes
are at most 6 times as fast as one. In return the buffers of all processes stay alike without being sent.

With one process, and inside `alone`, nothing is sent and torch draws as it would.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from timbreflow.errors import TimbreflowError
from timbreflow.workers import process_count

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long processes wait for each other, since the first may wait for another run of this checkout to end. Where one
dies, torchrun ends the others."""

_alone = False


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the other processes of this `torchrun`, by NCCL on CUDA and by Gloo on the CPU; nothing without torchrun."""
    if process_count() == 1:
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Act as a single process, as the first one does when it validates."""
    global _alone  # noqa: PLW0603  # one training a process
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def size() -> int:
    """Processes that share each batch."""
    return distributed.get_world_size() if not _alone and distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0. The first one writes and reports."""
    return distributed.get_rank() if not _alone and distributed.is_initialized() else 0


def part(n: int) -> slice:
    """This process's part of n examples.

    Raises:
        TimbreflowError: the processes cannot have equal parts.
    """
    if n % size():
        raise TimbreflowError(
            f"A batch of {n} cannot be shared equally by {size()} processes; change fit.batch_size or --nproc-per-node."
        )
    share = n // size()
    return slice(rank() * share, (rank() + 1) * share)


def own(x: Tensor) -> Tensor:
    """This process's part of what all hold alike for the whole batch: [B of all, ...] -> [B, ...]."""
    if size() == 1:
        return x
    share = len(x) // size()
    return x[rank() * share : (rank() + 1) * share]


def draw(n: int, sampler: Callable[[int], Tensor]) -> Tensor:
    """Random numbers for this process's n examples: its part of one draw for the whole batch.

    Args:
        n: examples of this process.
        sampler: draws [k, ...] for k examples, alike in all processes.
    """
    return own(sampler(n * size()))


def draw_like(sampler: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The same, of the shape [B, ...] of x, by `torch.randn_like` or its kind."""
    return draw(len(x), lambda n: sampler(x if n == len(x) else x.new_empty(n, *x.shape[1:])))


def gather(x: Tensor) -> Tensor:
    """The whole batch from each process's part, [B, ...] -> [B of all, ...], with gradients to all parts."""
    return x if size() == 1 else _Gather.apply(x)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return own(total)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients of the processes by their mean, in one message."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    joint = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(joint)
    joint /= size()
    for gradient, mean in zip(gradients, joint.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def average(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Mean of each figure over the processes, which all name the same ones in the same order."""
    if size() == 1:
        return values
    joint = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(joint)
    return dict(zip(values, (joint / size()).tolist(), strict=True))


def broadcast(value: T) -> T:
    """The first process's value, in all of them."""
    if size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]
