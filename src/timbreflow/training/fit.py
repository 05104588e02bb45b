"""The one training loop of timbreflow: steps, validation, checkpoints, and nothing about any one model."""

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from timbreflow import parallel
from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash
from timbreflow.training.checkpoint import FitState, load_checkpoint, save_checkpoint, snapshot
from timbreflow.training.estimate import Estimate, spoken
from timbreflow.training.fit_config import FitConfig, learning_rate
from timbreflow.training.placing import BatchT, ModelT, place_batch, place_model
from timbreflow.training.precision import Precision, choose_precision
from timbreflow.training.profile import Stopwatch
from timbreflow.training.seeding import seed_everything

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
STOP_FILE = "stop"
MOST_SKIPPED = 10
"""Steps in a row whose gradient may be infinite; their weights stay as they were."""
WILDEST = 1000.0
"""Norms above so many times `grad_clip` count as infinite: cut down to size they would still point nowhere."""


ModelIn_contra = TypeVar("ModelIn_contra", bound=nn.Module, contravariant=True)
BatchIn_contra = TypeVar("BatchIn_contra", contravariant=True)


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


@dataclass(frozen=True)
class FitResult:
    """What a fit did; the model that was passed in holds the EMA weights of `best_step`.

    Attributes:
        steps: optimizer steps done in all.
        best_step, best_loss: the best validation, by the objective's criterion.
        stopped: why it ended.
        curves: one row a validation: step, train_<term> (mean since the last row) and val_<figure>.
        resumed_at: step of the checkpoint that this call went on from (0: none).
        examples_per_second: of this call; a wall-clock figure, so not for files under version control.
        precision: that the forward pass was computed in.
    """

    steps: int
    best_step: int
    best_loss: float
    stopped: Literal["finished", "early"]
    curves: list[dict[str, float]]
    resumed_at: int
    examples_per_second: float
    precision: Precision


def fit(
    model: ModelT,
    objective: Objective[ModelT, BatchT],
    batches: Callable[[int], Iterable[BatchT]],
    validation_batches: Iterable[BatchT],
    config: FitConfig,
    *,
    workdir: Path,
    log: Callable[[int, Mapping[str, float]], None],
    device: torch.device | str,
) -> FitResult:
    """Train `model` in place and leave it with the EMA weights of its best validation, in evaluation mode.

    Killed at any moment, the same call goes on at the last checkpoint in `workdir` and ends with the same weights as
    an unbroken run (bit for bit on a CPU with the same number of threads). A file named `STOP_FILE` in `workdir` ends
    it at the next validation, as if its patience were over.

    Where `torchrun` started several processes, each calls this with its part of every batch, and all end with the
    weights of one process with the whole batches, up to rounding. The first one validates, logs and writes.

    Args:
        model: built with its own seed; moved to `device`.
        objective: the losses.
        batches: n -> endless iterable that begins with training batch number n, or with this process's part of it.
            Batch n may depend on n alone.
        validation_batches: read again at each validation.
        config: the loop's settings.
        workdir: scratch folder of this very fit.
        log: called with (step, values) every `log_every` steps (train/…) and at each validation (val/…).
        device: where to train.

    Raises:
        TimbreflowError: the loss is not finite, its gradient is not in `MOST_SKIPPED` steps in a row, there is no
            validation data, or the checkpoint found in `workdir` is unusable, or not all processes see it.
    """
    device = torch.device(device)
    # All processes compute in one precision, that of the first one's device.
    precision = parallel.broadcast(choose_precision(config.precision, device))
    config = dataclasses.replace(config, precision=precision)
    place_model(model, config, device)
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = build_optimizer(model, config)
    identity = (
        f"{stable_hash(dataclasses.asdict(config), [[n, list(t.shape)] for n, t in model.state_dict().items()]):x}"
        f" in {precision}"
    )
    state, best = load_checkpoint(workdir, model=model, ema=ema, optimizer=optimizer, identity=identity)
    resumed_at = state.step
    if parallel.broadcast(resumed_at) != resumed_at:
        raise TimbreflowError(f"Not all processes of torchrun see the checkpoints in {workdir}; let them share it.")
    leads = parallel.rank() == 0

    source = iter(batches(state.step * config.grad_accumulation))
    watch = Stopwatch(device)
    teller = _Teller(config, resumed_at, log if leads else None, watch)
    guard = _Guard(config, workdir)
    while not state.stopped:
        seed_everything(config.seed, "step", state.step)
        terms = training_step(model, objective, source, optimizer, config, step=state.step, device=device, watch=watch)
        finite = guard.check(terms, state.step)
        state.step += 1
        with watch("optimizer"):
            update_ema(ema, model, decay=config.ema_decay, step=state.step)
        for name, value in terms.items() if finite else ():
            total = state.sums.setdefault(name, [0.0, 0])
            total[0] += value
            total[1] += 1
        teller.tell(state.step, terms, finite=finite)
        if state.step % config.validate_every == 0 or state.step == config.steps:
            figures: dict[str, float] = {}
            with watch("validation"):
                if leads:
                    with parallel.alone():
                        figures = validate(ema, objective, validation_batches, config, device=device)
                    log(state.step, {f"val/{name}": value for name, value in figures.items()})
                figures, asked = parallel.broadcast((figures, (workdir / STOP_FILE).exists()))
            best = judge(state, figures, objective.criterion, config, ema=ema, best=best, asked_to_stop=asked)
        if leads and (state.stopped or state.step % config.checkpoint_every == 0):
            with watch("checkpoint"):
                save_checkpoint(workdir, state, model=model, ema=ema, optimizer=optimizer, best=best, identity=identity)
    teller.end(state.step)

    if best is None or state.best_loss is None:
        raise TimbreflowError(
            f"No validation gave a finite {objective.criterion}; delete {workdir} and lower fit.learning_rate."
        )
    model.load_state_dict(best)
    if config.precision == "float64":
        model.float()
    model.eval()
    return FitResult(
        steps=state.step,
        best_step=state.best_step,
        best_loss=state.best_loss,
        stopped="early" if state.stopped == "early" else "finished",
        curves=state.curves,
        resumed_at=resumed_at,
        examples_per_second=teller.examples_per_second(state.step),
        precision=precision,
    )


class _Teller:
    """Says how far a fit is: curves for the logger, a progress bar or lines for the shell, a profile where asked for.

    Args:
        config: the loop's settings.
        first: step that the fit begins after.
        log: metric logger; None says nothing at all, as all processes but one do.
        watch: of the fit.
    """

    def __init__(
        self,
        config: FitConfig,
        first: int,
        log: Callable[[int, Mapping[str, float]], None] | None,
        watch: Stopwatch,
    ) -> None:
        self._config, self._first, self._log, self._watch = config, first, log, watch
        self._started = self._last_line = time.monotonic()
        if log is not None:
            resumed = f", resumed at step {first} of {config.steps}" if first else ""
            logger.info("training in %s on %s%s", config.precision, watch.device, resumed)
        self._estimate = Estimate(first, config.steps, now=self._started)
        self._bar = tqdm(total=config.steps, initial=first, unit="step", disable=None if log else True)

    def examples_per_second(self, step: int) -> float:
        """Since the fit began, at step number `step`."""
        done = (step - self._first) * self._config.batch_size * self._config.grad_accumulation
        return done / max(time.monotonic() - self._started, 1e-9)

    def tell(self, step: int, terms: Mapping[str, float], *, finite: bool) -> None:
        """Tell of step number `step` (from 1), whether or not it changed the weights."""
        self._bar.update()
        if self._log is None:
            return
        if step % self._config.log_every == 0 and finite:
            self._bar.set_postfix(loss=f"{terms['loss']:.4f}")
            speed = {"examples_per_second": self.examples_per_second(step), "data_wait": self._watch.data_wait}
            self._log(step, {**{f"train/{name}": value for name, value in terms.items()}, **speed})
        now = time.monotonic()
        if news := self._estimate.news(step, now=now):
            logger.info(news)
        left = self._estimate.left(step, now=now)
        if self._bar.disable and left is not None and now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            steps = self._config.steps
            logger.info("step %d of %d, loss %.4f, %s left", step, steps, terms["loss"], spoken(left))

    def end(self, step: int) -> None:
        """Close the bar after step number `step`."""
        self._bar.close()
        if self._log is not None and self._watch.wanted:
            logger.info(self._watch.report(step - self._first))


class _Guard:
    """Ends a fit that diverges; a few gradients in a row that are infinite, or wild, are none of it."""

    def __init__(self, config: FitConfig, workdir: Path) -> None:
        self._every, self._workdir = config.checkpoint_every, workdir
        self._skipped = 0

    def check(self, terms: Mapping[str, float], step: int) -> bool:
        """Whether step `step` (from 0) changed the weights.

        Raises:
            TimbreflowError: the loss is not finite, or `MOST_SKIPPED` gradients in a row were not.
        """
        wrong = [name for name in ("loss", "grad_norm") if not math.isfinite(terms[name])]
        if not wrong:
            self._skipped = 0
            return True
        self._skipped += 1
        if wrong[0] == "grad_norm" and self._skipped < MOST_SKIPPED:
            logger.warning("step %d: the gradient is beyond use, so the weights stay as they are", step + 1)
            return False
        # Nothing is written here: this batch may already have reached running statistics and codebooks.
        saved = step - step % self._every
        kept = (
            f"the last good checkpoint (step {saved}) is kept in {self._workdir}"
            if saved
            else "no checkpoint was due yet"
        )
        raise TimbreflowError(
            f"Training diverged: {wrong[0]} is {terms[wrong[0]]} at step {step + 1}; {kept}; "
            "lower fit.learning_rate or fit.grad_clip, or raise fit.warmup_steps in params.yaml, and begin anew."
        )


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
            batch = place_batch(batch, config, device)
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
    means["grad_norm"] = norm if norm <= WILDEST * limit else math.inf
    means["learning_rate"] = learning_rate(config, step)
    if math.isfinite(means["loss"]) and math.isfinite(means["grad_norm"]):
        for group in optimizer.param_groups:
            group["lr"] = means["learning_rate"]
        with watch("optimizer"):
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return means


def build_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), fused, that decays matrices and kernels only."""
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
        for name, value in objective.validate(model, place_batch(batch, config, device)).items():
            sums[name] = sums.get(name, 0.0) + float(value)
        count += 1
    if count == 0:
        raise TimbreflowError(
            "There are no validation examples; raise the number of validation triples in params.yaml."
        )
    return {name: total / count for name, total in sums.items()}


def judge(
    state: FitState,
    figures: Mapping[str, float],
    criterion: str,
    config: FitConfig,
    *,
    ema: nn.Module,
    best: dict[str, Tensor] | None,
    asked_to_stop: bool = False,
) -> dict[str, Tensor] | None:
    """Add a row to the curves, decide whether this is the best step and whether to stop; return the best weights."""
    row = {f"train_{name}": total / count for name, (total, count) in state.sums.items()}
    state.curves.append({"step": state.step, **row, **{f"val_{name}": value for name, value in figures.items()}})
    state.sums = {}
    value = figures[criterion]
    if math.isfinite(value) and (state.best_loss is None or value < state.best_loss):
        state.best_step, state.best_loss, state.validations_since_best = state.step, value, 0
        best = snapshot(ema)
    else:
        state.validations_since_best += 1
    if state.step == config.steps:
        state.stopped = "finished"
    elif asked_to_stop or (config.patience and state.validations_since_best >= config.patience):
        state.stopped = "early"
    return best
