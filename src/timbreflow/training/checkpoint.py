"""Checkpoints of a fit: tensors as safetensors, numbers as JSON, nothing pickled, replaced in one rename."""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, read_json, stable_hash
from timbreflow.training.config import FitConfig

PREFIX = "step-"


@dataclass
class FitState:
    """Everything of a fit that is not a tensor.

    Attributes:
        step: optimizer steps done.
        best_step, best_loss: the best validation so far (step 0: none yet).
        validations_since_best: counts towards `patience`.
        stopped: "" while running, then "finished" or "early".
        sums: name -> [sum, count] of the training terms since the last row of `curves`.
        curves: one row a validation.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    validations_since_best: int = 0
    stopped: str = ""
    sums: dict[str, list[float]] = field(default_factory=dict)
    curves: list[dict[str, float]] = field(default_factory=list)

    def add(self, terms: Mapping[str, float]) -> None:
        """Add a step's training terms to the means of the next row."""
        for name, value in terms.items():
            total = self.sums.setdefault(name, [0.0, 0])
            total[0] += value
            total[1] += 1

    def update_best(
        self, figures: Mapping[str, float], criterion: str, config: FitConfig, *, asked_to_stop: bool
    ) -> bool:
        """Add a row to the curves and decide whether to stop; returns whether this validation is the best so far."""
        row = {f"train_{name}": total / count for name, (total, count) in self.sums.items()}
        self.curves.append({"step": self.step, **row, **{f"val_{name}": value for name, value in figures.items()}})
        self.sums = {}
        value = figures[criterion]
        better = math.isfinite(value) and (self.best_loss is None or value < self.best_loss)
        if better:
            self.best_step, self.best_loss, self.validations_since_best = self.step, value, 0
        else:
            self.validations_since_best += 1
        if self.step == config.steps:
            self.stopped = "finished"
        elif asked_to_stop or (config.patience and self.validations_since_best >= config.patience):
            self.stopped = "early"
        return better


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy of a module's parameters and buffers on the CPU, each in its own storage."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in module.state_dict().items()}


class Checkpoints:
    """The checkpoints of one fit, `workdir/step-NNNNNNNN/`, of which only the newest is kept.

    Args:
        workdir: folder of this fit.
        config: its settings, with the precision that was chosen; a checkpoint of other settings is refused.
        model: stored with its buffers, as its average `ema` is.
        optimizer: stored by its moments and step counts.
    """

    def __init__(
        self, workdir: Path, config: FitConfig, *, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self._workdir, self._precision = workdir, config.precision
        shapes = [[name, list(tensor.shape)] for name, tensor in model.state_dict().items()]
        self._settings = f"{stable_hash(dataclasses.asdict(config), shapes):x}"
        self._modules = {"model": model, "ema": ema}
        self._optimizer = optimizer

    def save(self, state: FitState, best: dict[str, Tensor] | None) -> None:
        """Write a checkpoint, with the EMA weights of the best validation, and remove the older ones."""
        folder = self._workdir / f"{PREFIX}{state.step:08d}"
        with atomic_directory(folder) as temporary:
            for name, module in self._modules.items():
                save_file(snapshot(module), temporary / f"{name}.safetensors")
            save_file(_flatten(self._optimizer), temporary / "optimizer.safetensors")
            if best is not None:
                save_file(best, temporary / "best.safetensors")
            # json and not write_json: this one file may hold an infinite loss, and no person reads it.
            identity = {"settings": self._settings, "precision": self._precision}
            text = json.dumps({**identity, **dataclasses.asdict(state)})
            (temporary / "state.json").write_text(text, encoding="utf-8")
        for other in [*self._workdir.glob(f"{PREFIX}*"), *self._workdir.glob(f".{PREFIX}*")]:
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def load(self) -> tuple[FitState, dict[str, Tensor] | None]:
        """Fill model, EMA and optimizer from the newest checkpoint and return its state and best weights.

        Without a checkpoint nothing is touched and a fresh state comes back.

        Raises:
            TimbreflowError: the checkpoint is broken or belongs to other settings.
        """
        folders = sorted(self._workdir.glob(f"{PREFIX}*"))
        if not folders:
            return FitState(), None
        folder = folders[-1]
        remedy = "delete that folder to train from the start"
        try:
            values = read_json(folder / "state.json")
            settings, precision = values.pop("settings"), values.pop("precision")
            state = FitState(**values)
            if precision != self._precision:
                raise TimbreflowError(
                    f"The checkpoint {folder} was made in {precision}, and this device trains in {self._precision}, "
                    f"which must not be mixed; resume where the training was started, or {remedy}."
                )
            if settings != self._settings:
                raise TimbreflowError(
                    f"The checkpoint {folder} was made with other settings or another model; {remedy}."
                )
            for name, module in self._modules.items():
                module.load_state_dict(load_file(folder / f"{name}.safetensors"))
            _unflatten(self._optimizer, load_file(folder / "optimizer.safetensors"))
            best = load_file(folder / "best.safetensors") if (folder / "best.safetensors").exists() else None
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise TimbreflowError(f"The checkpoint {folder} is broken ({error}); {remedy}.") from error
        return state, best


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimizer tensors named "<parameter index>.<name>"; its settings come from the config again."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value.detach().to("cpu", copy=True).contiguous()
        for index, values in state.items()
        for name, value in values.items()
    }


def _unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
