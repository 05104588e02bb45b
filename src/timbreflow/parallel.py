"""One training in several processes that `torchrun` started: each holds an equal part of every batch.

The result is that of one process with the whole batch, whatever the number of processes, up to rounding:

- `own` and `drawn_like` give each process its part of random numbers that all draw alike for the whole batch;
- `gather` shows it the whole batch where examples meet each other: batch statistics, codebooks, contrastive terms;
- `average_gradients` makes the mean of the parts' gradients, which is the whole batch's.

With one process, and inside `alone`, each of them changes nothing and draws what torch would draw.
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
            f"A batch of {n} cannot be shared equally by {size()} processes; change fit.batch_size in params.yaml or "
            "--nproc-per-node."
        )
    share = n // size()
    return slice(rank() * share, (rank() + 1) * share)


def whole(n: int) -> int:
    """Examples of all processes together where this one has n."""
    return n * size()


def own(x: Tensor, dim: int = 0) -> Tensor:
    """This process's part of what all hold alike for the whole batch."""
    if size() == 1:
        return x
    share = x.shape[dim] // size()
    return x.narrow(dim, rank() * share, share)


def drawn_like(draw: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Random numbers of the shape [B, ...] of x: this process's part of a draw for the whole batch.

    Args:
        draw: `torch.randn_like` or another of that kind.
        x: what the numbers are for.
    """
    return draw(x) if size() == 1 else own(draw(x.new_empty(whole(len(x)), *x.shape[1:])))


def gather(x: Tensor) -> Tensor:
    """The whole batch from each process's part, [B, ...] -> [whole(B), ...], with gradients to all parts."""
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


def told(value: T) -> T:
    """The first process's value, in all of them."""
    if size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]
