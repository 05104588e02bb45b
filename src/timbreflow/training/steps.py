"""One step of a training, and what it needs: the optimizer and its rate, averaged weights, a guard, validation."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from timbreflow import parallel
from timbreflow.errors import TimbreflowError
from timbreflow.training.config import FitConfig
from timbreflow.training.device import BatchT, ModelT, place_batch
from timbreflow.training.progress import Stopwatch
from timbreflow.training.seeding import seed_everything

DECAY_SHARE = 0.2
"""Share of all steps in which the rate of the schedule "trapezoid" falls."""
MAX_SKIPPED_STEPS = 10
"""Steps in a row that may be skipped for an infinite gradient before the training counts as diverged."""
MAX_GRAD_RATIO = 1000.0
"""A gradient whose norm exceeds `grad_clip` so many times counts as infinite: clipping leaves its direction, which
carries no information by then."""

ModelIn_contra = TypeVar("ModelIn_contra", bound=nn.Module, contravariant=True)
BatchIn_contra = TypeVar("BatchIn_contra", contravariant=True)

logger = logging.getLogger(__name__)


class Objective(Protocol[ModelIn_contra, BatchIn_contra]):
    """What a model is trained for.

    `criterion` names the validation figure (lower is better) that picks the best step; the training loss itself may
    hold terms, such as a commitment loss, that grow while the model gets better.
    """

    @property
    def criterion(self) -> str:
        """Name of the figure."""

    def __call__(self, model: ModelIn_contra, batch: BatchIn_contra, *, step: int) -> Mapping[str, Tensor]:
        """Scalars of one batch: "loss" is minimised, the others are drawn as curves."""

    def validate(self, model: ModelIn_contra, batch: BatchIn_contra) -> Mapping[str, Tensor]:
        """Scalars of one validation batch, among them `criterion`; runs without gradients, never in bfloat16."""


def training_step(
    model: ModelT,
    objective: Objective[ModelT, BatchT],
    source: Iterator[BatchT],
    optimizer: torch.optim.Optimizer,
    config: FitConfig,
    *,
    step: int,
    device: torch.device,
    watch: Stopwatch,
) -> dict[str, float]:
    """One optimizer step over `grad_accumulation` batches; returns the mean terms, the gradient's norm and the rate.

    Where the loss or the norm is not finite, the weights are left as they were.
    """
    model.train()
    means: dict[str, float] = {}
    for _ in range(config.grad_accumulation):
        with watch("data"):
            batch = next(source)
        with watch("forward_backward"):
            batch = place_batch(batch, config.precision, device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
                terms = objective(model, batch, step=step)
            (terms["loss"] / config.grad_accumulation).backward()
            # One transfer for all terms: each .item() would wait for the device by itself.
            values = torch.stack([value.detach().float() for value in terms.values()]).tolist()
        for name, value in zip(terms, values, strict=True):
            means[name] = means.get(name, 0.0) + value / config.grad_accumulation
    with watch("forward_backward"):
        parallel.average_gradients(model.parameters())
        means = parallel.average(means, device)
    limit = config.grad_clip if config.grad_clip > 0 else math.inf
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), limit))
    means["grad_norm"] = norm if norm <= MAX_GRAD_RATIO * limit else math.inf
    means["learning_rate"] = learning_rate(config, step)
    if math.isfinite(means["loss"]) and math.isfinite(means["grad_norm"]):
        for group in optimizer.param_groups:
            group["lr"] = means["learning_rate"]
        with watch("optimizer"):
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return means


def learning_rate(config: FitConfig, step: int) -> float:
    """Rate of step number `step` (from 0): linear warm-up, then what `config.schedule` says."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "trapezoid":
        return config.learning_rate * min(1.0, (config.steps - step) / (DECAY_SHARE * config.steps))
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), fused, with weight decay for matrices and kernels only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if _is_matrix(p)], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)


def _is_matrix(parameter: Tensor) -> bool:
    """Whether two axes or more are longer than 1; a gain of shape [1, C, 1] is a vector."""
    return sum(size > 1 for size in parameter.shape) >= 2


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, *, decay: float, step: int) -> None:
    """Move the averaged weights towards the model's after step number `step` (from 1), and copy its buffers.

    The decay is at most (1 + step) / (10 + step), so that the average forgets the random start in short runs.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for averaged, current in zip(ema.parameters(), model.parameters(), strict=True):
        averaged.lerp_(current, weight)
    for kept, buffer in zip(ema.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)


class DivergenceGuard:
    """Ends a training that diverges; a few infinite gradients in a row are tolerated."""

    def __init__(self, config: FitConfig, workdir: Path) -> None:
        self._every, self._workdir = config.checkpoint_every, workdir
        self._skipped = 0

    def check(self, terms: Mapping[str, float], step: int) -> bool:
        """Whether step `step` (from 0) changed the weights.

        Raises:
            TimbreflowError: the loss is not finite, or the gradient was not in `MAX_SKIPPED_STEPS` steps in a row.
        """
        wrong = [name for name in ("loss", "grad_norm") if not math.isfinite(terms[name])]
        if not wrong:
            self._skipped = 0
            return True
        self._skipped += 1
        if wrong[0] == "grad_norm" and self._skipped < MAX_SKIPPED_STEPS:
            logger.warning("step %d: skipped, since the gradient is infinite or far too large", step + 1)
            return False
        # Nothing is written here: this batch may already have reached running statistics and codebooks.
        saved = step - step % self._every
        kept = (
            f"the last good checkpoint (step {saved}) is in {self._workdir}" if saved else "no checkpoint was due yet"
        )
        raise TimbreflowError(
            f"Training diverged: {wrong[0]} is {terms[wrong[0]]} at step {step + 1}; {kept}; "
            "lower fit.learning_rate or fit.grad_clip, or raise fit.warmup_steps, and start again."
        )


@torch.no_grad()
def validate(
    model: ModelT,
    objective: Objective[ModelT, BatchT],
    batches: Iterable[BatchT],
    config: FitConfig,
    *,
    device: torch.device,
) -> dict[str, float]:
    """Mean figures over the validation batches, with the same random numbers each time.

    Raises:
        TimbreflowError: there are no validation batches.
    """
    seed_everything(config.seed, "validation")
    model.eval()
    sums: dict[str, float] = {}
    count = 0
    for batch in batches:
        for name, value in objective.validate(model, place_batch(batch, config.precision, device)).items():
            sums[name] = sums.get(name, 0.0) + float(value)
        count += 1
    if count == 0:
        raise TimbreflowError("There are no validation examples; render more validation triples.")
    return {name: total / count for name, total in sums.items()}
