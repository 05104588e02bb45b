"""What every training stage shares: validated data and earlier weights in; weights, curves and numbers out."""

import csv
import dataclasses
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timbreflow import parallel
from timbreflow.audio.features import FeatureConfig
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, read_json, stable_hash, write_json
from timbreflow.models.bundle import ModelBundle, kind_of, load_bundle, save_bundle, weights_sha256
from timbreflow.training.config import FitConfig
from timbreflow.training.data import TrainingData
from timbreflow.training.device import BatchT
from timbreflow.training.fit import FitResult, fit
from timbreflow.training.steps import Objective


def read_passed(path: Path) -> Any:
    """Content of passed.json, which validate_data writes only for data that passed.

    Raises:
        TimbreflowError: it is missing or broken, so nothing may be trained.
    """
    if not path.is_file():
        raise TimbreflowError(
            f"{path} is missing, so the data has not passed validation; run validate_data and correct what it reports."
        )
    return read_json(path)


def begin_with(model: nn.Module, folder: Path, features: FeatureConfig) -> tuple[str, bool]:
    """Load the weights of an earlier training into a model of the same shape, to train on from there.

    What has no weights, such as dropout, may differ. A Glow with a decoder may also begin with a VQ-VAE of the same
    encoders and decoder: the flow is then as it was.

    Args:
        model: changed in place.
        folder: a bundle, in full or half precision.
        features: what the training reads; the bundle must have been trained on the same.

    Returns:
        sha256 of the weights file, and whether it had all weights of the model.

    Raises:
        TimbreflowError: the bundle is unusable, of another shape, or of other features.
    """
    bundle = load_bundle(folder)
    stored = bundle.model.state_dict()
    found, wanted = ({name: x.shape for name, x in state.items()} for state in (stored, model.state_dict()))
    whole = found == wanted
    lent = (bundle.kind, kind_of(model)) == ("vqvae", "glow") and found.items() <= wanted.items()
    if bundle.features != features or not (whole or lent):
        raise TimbreflowError(
            f"{folder} holds a model of another shape or of other features than this training has; "
            'use its settings, or set init_from to "".'
        )
    model.load_state_dict(stored, strict=whole)
    return weights_sha256(folder), whole


@dataclass(frozen=True)
class TrainingRun:
    """One training: its settings, and where it writes.

    Attributes:
        kind: of the bundle: vqvae, glow, refiner, triplet or vocoder.
        fit: settings of the loop.
        settings: what the bundle must remember: the section of params.yaml, the content of passed.json, and the weights
            that it began with.
        inputs: further dataclasses that decide the result, such as the audio section.
        bundle: folder of the weights.
        results: folder of metrics.json and curves.csv.
        scratch: folder of the checkpoints of all trainings of this stage.
        log: metric logger.
        device: where to train.
    """

    kind: str
    fit: FitConfig
    settings: Mapping[str, Any]
    inputs: tuple[Any, ...]
    bundle: Path
    results: Path
    scratch: Path
    log: Callable[[int, Mapping[str, float]], None]
    device: torch.device

    @property
    def workdir(self) -> Path:
        """Folder of the checkpoints of this very training: its name is a hash of all that decides the result."""
        key = stable_hash(self.kind, self.settings, *(dataclasses.asdict(part) for part in self.inputs))
        return self.scratch / f"{key:016x}"

    def train(
        self,
        model: nn.Module,
        objective: Objective[Any, BatchT],
        data: TrainingData[BatchT],
        *,
        trained: nn.Module | None = None,
        compare: Callable[[ModelBundle], Mapping[str, float]] = lambda bundle: {},
    ) -> tuple[FitResult, dict[str, float]]:
        """Fit, then write the bundle, metrics.json and curves.csv, and remove the checkpoints.

        Of several processes only the first one writes.

        Args:
            model: freshly built; this is what the bundle holds.
            objective: its losses.
            data: what it is trained and validated on.
            trained: the module to train where `model` is only a part of it.
            compare: figures of the finished model, for metrics.json and the bundle. They are written in one rename
                with the weights.

        Returns:
            The fit's result, and the metrics that were written (no wall-clock times: they would change every run).
        """
        result = fit(
            trained or model,
            objective,
            data.batches,
            data.validation,
            self.fit,
            workdir=self.workdir,
            log=self.log,
            device=self.device,
        )
        bundle = ModelBundle(self.kind, model.to("cpu"), data.features, data.normalizer)
        figures = compare(bundle)
        metrics = {**summarize(result, parameters=sum(p.numel() for p in model.parameters())), **figures}
        if parallel.rank() > 0:
            return result, metrics
        facts = {name: getattr(result, name) for name in ("precision", "steps", "best_step", "best_loss")}
        save_bundle(self.bundle, dataclasses.replace(bundle, training={**self.settings, **facts, **figures}))
        write_curves(self.results / "curves.csv", result.curves)
        write_json(self.results / "metrics.json", metrics)
        shutil.rmtree(self.workdir, ignore_errors=True)
        return result, metrics


def summarize(result: FitResult, *, parameters: int) -> dict[str, float]:
    """Numbers of the stored weights: steps, parameters, and the row of the curves at the best step."""
    best = next(row for row in result.curves if row["step"] == result.best_step)
    figures = {name: value for name, value in best.items() if name != "step" and math.isfinite(value)}
    return {"steps": result.steps, "best_step": result.best_step, "parameters": parameters, **figures}


def write_curves(path: Path, rows: list[dict[str, float]]) -> None:
    """Write the curves as CSV, one row a validation, a column a figure: step first, then in the order they appeared."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.7g}" for name, value in row.items()} for row in rows)
