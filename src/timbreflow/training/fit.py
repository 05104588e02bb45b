"""The one training loop of timbreflow: steps, validation, checkpoints, and nothing about any one model."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from timbreflow import parallel
from timbreflow.errors import TimbreflowError
from timbreflow.training.checkpoint import Checkpoints, snapshot
from timbreflow.training.config import FitConfig
from timbreflow.training.device import BatchT, ModelT, Precision, choose_precision, place_model
from timbreflow.training.progress import Progress, Stopwatch
from timbreflow.training.seeding import seed_everything
from timbreflow.training.steps import DivergenceGuard, Objective, build_optimizer, training_step, update_ema, validate

STOP_FILE = "stop"


@dataclass(frozen=True)
class FitResult:
    """What a fit did; the model that was passed in holds the EMA weights of `best_step`.

    Attributes:
        steps, best_step, best_loss, stopped: as in `FitState` at the end.
        curves: one row a validation: step, train_<term> (mean since the last row) and val_<figure>.
        resumed_at: step of the checkpoint that this call resumed from (0: none).
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

    Killed at any moment, the same call resumes at the last checkpoint in `workdir` and ends with the same weights as
    an unbroken run (bit for bit on a CPU with the same number of threads). A file named `STOP_FILE` in `workdir` ends
    it at the next validation, as if its patience were over.

    Where `torchrun` started several processes, each calls this with its part of every batch, and all end with the
    weights of one process with the whole batches, up to rounding. The first one validates, logs and writes.

    `batches` gives, for n, an endless iterable that begins with training batch number n, or with this process's part of
    it; batch n may depend on n alone. `log` is called with (step, values) every `log_every` steps (train/…) and at each
    validation (val/…). `workdir` is the scratch folder of this very fit.

    Raises:
        TimbreflowError: the training diverged, there is no validation data, or the checkpoint found in `workdir` is
            unusable, or not all processes see it.
    """
    device = torch.device(device)
    # All processes compute in one precision, that of the first one's device.
    precision = parallel.broadcast(choose_precision(config.precision, device))
    config = dataclasses.replace(config, precision=precision)
    place_model(model, precision, device)
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = build_optimizer(model, config)
    checkpoints = Checkpoints(workdir, config, model=model, ema=ema, optimizer=optimizer)
    state, best = checkpoints.load()
    resumed_at = state.step
    if parallel.broadcast(resumed_at) != resumed_at:
        raise TimbreflowError(f"Not all processes of torchrun see the checkpoints in {workdir}; let them share it.")
    leads = parallel.rank() == 0

    source = iter(batches(state.step * config.grad_accumulation))
    watch = Stopwatch(device)
    progress = Progress(config, resumed_at, log if leads else None, watch)
    guard = DivergenceGuard(config, workdir)
    while not state.stopped:
        seed_everything(config.seed, "step", state.step)
        terms = training_step(model, objective, source, optimizer, config, step=state.step, device=device, watch=watch)
        finite = guard.check(terms, state.step)
        state.step += 1
        with watch("optimizer"):
            update_ema(ema, model, decay=config.ema_decay, step=state.step)
        if finite:
            state.add(terms)
        progress.update(state.step, terms, finite=finite)
        if state.step % config.validate_every == 0 or state.step == config.steps:
            figures: dict[str, float] = {}
            with watch("validation"):
                if leads:
                    with parallel.alone():
                        figures = validate(ema, objective, validation_batches, config, device=device)
                    log(state.step, {f"val/{name}": value for name, value in figures.items()})
                figures, asked = parallel.broadcast((figures, (workdir / STOP_FILE).exists()))
            if state.update_best(figures, objective.criterion, config, asked_to_stop=asked):
                best = snapshot(ema)
        if leads and (state.stopped or state.step % config.checkpoint_every == 0):
            with watch("checkpoint"):
                checkpoints.save(state, best)
    progress.close(state.step)

    if best is None or state.best_loss is None:
        raise TimbreflowError(
            f"No validation gave a finite {objective.criterion}; delete {workdir} and lower fit.learning_rate."
        )
    model.load_state_dict(best)
    if precision == "float64":
        model.float()
    model.eval()
    return FitResult(
        steps=state.step,
        best_step=state.best_step,
        best_loss=state.best_loss,
        stopped="early" if state.stopped == "early" else "finished",
        curves=state.curves,
        resumed_at=resumed_at,
        examples_per_second=progress.examples_per_second(state.step),
        precision=precision,
    )
