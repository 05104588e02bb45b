"""Checkpoints of a fit: tensors as safetensors, numbers as JSON, nothing pickled, replaced in one rename."""

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, read_json

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


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy of a module's parameters and buffers on the CPU, each in its own storage."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in module.state_dict().items()}


def save_checkpoint(
    workdir: Path,
    state: FitState,
    *,
    model: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor] | None,
    identity: str,
) -> None:
    """Write `workdir/step-NNNNNNNN/` whole or not at all, then remove the older ones.

    Args:
        workdir: folder of this fit.
        state: its numbers.
        model: its weights and buffers.
        ema: the same, averaged.
        optimizer: its moments and step counts.
        best: snapshot of the EMA weights at the best validation.
        identity: "<settings and model> in <precision>", which the checkpoint belongs to; `load_checkpoint` compares it.
    """
    folder = workdir / f"{PREFIX}{state.step:08d}"
    with atomic_directory(folder) as temporary:
        save_file(snapshot(model), temporary / "model.safetensors")
        save_file(snapshot(ema), temporary / "ema.safetensors")
        save_file(_flatten(optimizer), temporary / "optimizer.safetensors")
        if best is not None:
            save_file(best, temporary / "best.safetensors")
        # json and not write_json: this one file may hold an infinite loss, and no person reads it.
        text = json.dumps({"identity": identity, **dataclasses.asdict(state)})
        (temporary / "state.json").write_text(text, encoding="utf-8")
    for other in [*workdir.glob(f"{PREFIX}*"), *workdir.glob(f".{PREFIX}*")]:
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(
    workdir: Path, *, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, identity: str
) -> tuple[FitState, dict[str, Tensor] | None]:
    """Fill model, EMA and optimizer from the newest checkpoint and return its state and best weights.

    Without a checkpoint nothing is touched and a fresh state comes back.

    Raises:
        TimbreflowError: the checkpoint is broken or belongs to other settings.
    """
    folders = sorted(workdir.glob(f"{PREFIX}*"))
    if not folders:
        return FitState(), None
    folder = folders[-1]
    remedy = "delete that folder to train from the start"
    try:
        values = read_json(folder / "state.json")
        found = values.pop("identity")
        state = FitState(**values)
        if found != identity:
            raise TimbreflowError(_mismatch(folder, found, identity, remedy))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        ema.load_state_dict(load_file(folder / "ema.safetensors"))
        _unflatten(optimizer, load_file(folder / "optimizer.safetensors"))
        best = load_file(folder / "best.safetensors") if (folder / "best.safetensors").exists() else None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise TimbreflowError(f"The checkpoint {folder} is broken ({error}); {remedy}.") from error
    return state, best


def _mismatch(folder: Path, found: str, identity: str, remedy: str) -> str:
    before, now = (text.partition(" in ")[2] for text in (found, identity))
    if before and before != now:
        return (
            f"The checkpoint {folder} was made in {before}, and this device trains in {now}, which must not be mixed; "
            f"go on where it was begun, or {remedy}."
        )
    return f"The checkpoint {folder} was made with other settings or another model; {remedy}."


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
