"""What every training stage shares: data that passed validation in, weights, curves and numbers out."""

import csv
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timbreflow import parallel
from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, read_json, stable_hash, write_json
from timbreflow.models.bundle import ModelBundle, kind_of, load_bundle, save_bundle, weights_sha256
from timbreflow.training.fit import FitResult, Objective, fit
from timbreflow.training.fit_config import FitConfig
from timbreflow.training.placing import BatchT, ModelT


def read_passed(path: Path) -> Any:
    """Content of passed.json, which validate_data writes only for data that passed.

    Raises:
        TimbreflowError: it is missing or broken, so nothing may be trained.
    """
    if not path.is_file():
        raise TimbreflowError(
            f"{path} is missing, so the data has not passed validation; run validate_data and mend what it reports."
        )
    return read_json(path)


def work_key(stage: str, passed: Any, *sections: Any) -> str:
    """Name of the scratch folder of one training: a hash of the data's digest and of every setting.

    Args:
        stage: name of the stage, with its variant.
        passed: content of passed.json.
        sections: dataclasses.
    """
    return f"{stable_hash(stage, passed, *(dataclasses.asdict(section) for section in sections)):016x}"


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
            f"{folder} holds a model of another shape or of other features than params.yaml asks for; "
            'give its settings to params.yaml, or set init_from to "".'
        )
    model.load_state_dict(stored, strict=whole)
    return weights_sha256(folder), whole


def train(
    model: ModelT,
    objective: Objective[ModelT, BatchT],
    batches: Callable[[int], Iterable[BatchT]],
    validation_batches: Iterable[BatchT],
    config: FitConfig,
    *,
    kind: str,
    features: FeatureConfig,
    normalizer: Normalizer | None,
    settings: Mapping[str, Any],
    bundle: Path,
    results: Path,
    workdir: Path,
    log: Callable[[int, Mapping[str, float]], None],
    device: torch.device,
) -> tuple[FitResult, dict[str, float]]:
    """Fit, then write the bundle, `results/metrics.json` and `results/curves.csv`, and drop the scratch folder.

    Of several processes only the first one writes.

    Args:
        model: freshly built.
        objective: its losses.
        batches: see `fit`.
        validation_batches: see `fit`.
        config: of the loop.
        kind: of the bundle: vqvae, glow or triplet.
        features: what the model was trained on.
        normalizer: statistics of those features; None where the model takes raw ones.
        settings: the whole section of params.yaml, and the data's digest, for the bundle's config.json.
        bundle: folder of the weights.
        results: folder of the numbers.
        workdir: scratch folder of this training.
        log: metric logger.
        device: where to train.

    Returns:
        The fit's result, and the metrics that were written (no wall-clock times: they would change every run).
    """
    result = fit(model, objective, batches, validation_batches, config, workdir=workdir, log=log, device=device)
    model.to("cpu")
    metrics = summarize(result, parameters=sum(p.numel() for p in model.parameters()))
    if parallel.rank() > 0:
        return result, metrics
    training = {**settings, **record(result)}
    save_bundle(
        bundle, ModelBundle(kind=kind, model=model, features=features, normalizer=normalizer, training=training)
    )
    write_curves(results / "curves.csv", result.curves)
    write_json(results / "metrics.json", metrics)
    shutil.rmtree(workdir, ignore_errors=True)
    return result, metrics


def record(result: FitResult) -> dict[str, Any]:
    """What a bundle tells of its training beside the settings; a card and an MLflow run tell the precision too."""
    return {name: getattr(result, name) for name in ("precision", "steps", "best_step", "best_loss")}


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
