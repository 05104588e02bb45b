"""What the training stages share: validated data and earlier weights in; weights, curves and numbers out."""

import dataclasses
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from timbreflow import parallel
from timbreflow.audio.features import FeatureConfig
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, read_json, stable_hash, write_json
from timbreflow.models.bundle import ModelBundle, kind_of, load_bundle, save_bundle, weights_sha256
from timbreflow.models.catalogue import trained_by
from timbreflow.models.devices import resolve_device
from timbreflow.models.refiner import Refiner
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, Resumable, StageResult
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
    encoders and decoder: the flow is then as it was. A refiner with a note reader may begin with one without, and one
    with more levels with one with fewer.

    Returns:
        sha256 of the weights file, and whether it had all weights of the model.

    Raises:
        TimbreflowError: the bundle is unusable, of another shape, or of other features.
    """
    bundle = load_bundle(folder)
    stored = bundle.model.state_dict()
    if isinstance(bundle.model, Refiner) and isinstance(model, Refiner):
        stored = model.weights_of(bundle.model)
    found, wanted = ({name: x.shape for name, x in state.items()} for state in (stored, model.state_dict()))
    whole = found == wanted
    kinds = (bundle.kind, kind_of(model))
    lent = kinds in {("vqvae", "glow"), ("refiner", "refiner")} and found.items() <= wanted.items()
    if bundle.features != features or not (whole or lent):
        raise TimbreflowError(
            f"{folder} holds a model of another shape or of other features than this training has; "
            'use its settings, or set init_from to "".'
        )
    model.load_state_dict(stored, strict=whole)
    return weights_sha256(folder), whole


class Training:
    """One training of this checkout.

    Args:
        section: its name in params.yaml, such as train_vqvae.base.
        config: the section itself.
        inputs: further dataclasses that decide the result, such as the audio section.
        layout: paths.
        log: metric logger.
        device: as for every stage.

    Raises:
        TimbreflowError: the data has not passed validation, so nothing may be trained.
    """

    def __init__(
        self, section: str, config: Any, *inputs: Any, layout: Layout, log: MetricLogger, device: str | None
    ) -> None:
        stage, _, variant = section.partition(".")
        passed = read_passed(layout.results("validate_data") / "passed.json")
        # What the bundle must remember.
        self._settings = {"section": dataclasses.asdict(config), "data": passed}
        if variant:
            self._settings["variant"] = variant
        self._config, self._inputs, self._layout, self._log = config, inputs, layout, log
        self._model = trained_by(section)
        self._results, self._scratch = layout.results(stage) / variant, layout.scratch(stage)
        self.device = resolve_device(device)

    def begin(self, model: nn.Module, features: FeatureConfig, **settings: Any) -> bool:
        """Load the weights that `init_from` names, if it names some, and say whether they were all of the model's.

        `settings` are further facts that decide the result.
        """
        begun, whole = "", False
        if self._config.init_from:
            begun, whole = begin_with(model, self._layout.root / self._config.init_from, features)
        self._settings |= {"begun": begun, **settings}
        return whole

    def run(
        self,
        model: nn.Module,
        objective: Objective[Any, BatchT],
        data: TrainingData[BatchT],
        *,
        summary: Callable[[FitResult, Mapping[str, float]], str],
        trained: nn.Module | None = None,
        compare: Callable[[ModelBundle], Mapping[str, float]] = lambda bundle: {},
    ) -> StageResult:
        """Fit, then write the bundle, metrics.json and curves.csv, and remove the checkpoints.

        Of several processes only the first one writes. `trained` is the module to train where `model`, which the bundle
        holds, is only a part of it. The figures that `compare` makes of the finished model go into metrics.json and the
        bundle, in one rename with the weights. metrics.json holds no wall-clock times: they would change every run.
        """
        # Checkpoints lie in a folder that is named by all that decides the result.
        inputs = [dataclasses.asdict(part) for part in self._inputs]
        workdir = self._scratch / f"{stable_hash(self._model.kind, self._settings, *inputs):016x}"
        if isinstance(self._log, Resumable):
            self._log.resume(workdir)
        result = fit(
            trained or model,
            objective,
            data.batches,
            data.validation,
            self._config.fit,
            workdir=workdir,
            log=self._log,
            device=self.device,
        )
        bundle = ModelBundle(self._model.kind, model.to("cpu"), data.features, data.normalizer)
        figures = compare(bundle)
        best = next(row for row in result.curves if row["step"] == result.best_step)
        metrics = {
            "steps": result.steps,
            "best_step": result.best_step,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            **{name: value for name, value in best.items() if name != "step" and math.isfinite(value)},
            **figures,
        }
        curves = self._results / "curves.csv"
        if parallel.rank() == 0:
            numbers = {name: getattr(result, name) for name in ("precision", "steps", "best_step", "best_loss")}
            remembered = dataclasses.replace(bundle, training={**self._settings, **numbers, **figures})
            save_bundle(self._layout.model(self._model.name), remembered)
            with atomic_file(curves) as temporary:
                pd.DataFrame(result.curves).to_csv(temporary, index=False, float_format="%.7g", lineterminator="\n")
            write_json(self._results / "metrics.json", metrics)
            shutil.rmtree(workdir, ignore_errors=True)
        return StageResult(
            summary(result, metrics), metrics, files={"curves": curves}, facts={"precision": result.precision}
        )
