"""Train the refiner behind the frozen transfer models of the run."""

import dataclasses
from collections.abc import Mapping

import torch

from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.data.renderer import RenderInputs
from timbreflow.errors import TimbreflowError
from timbreflow.models.bundle import load_bundle, weights_sha256
from timbreflow.models.glow.model import Glow
from timbreflow.models.refiner import Refiner
from timbreflow.models.vqvae import VQVAE
from timbreflow.rendering.config import RenderConfig
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.stages.training import Training
from timbreflow.training.config import RefinerTraining
from timbreflow.training.data import open_triples
from timbreflow.training.device import place_model
from timbreflow.training.fit import FitResult
from timbreflow.training.objectives import RefinerObjective
from timbreflow.training.seeding import seed_everything


def run(
    config: RefinerTraining,
    features: FeatureConfig,
    rendering: RenderConfig | None = None,
    *,
    layout: Layout,
    log: MetricLogger,
    device: str | None = None,
) -> StageResult:
    """Train and store `data/models/refiner` and `results/train_refiner/`; `config.online_triples` needs `rendering`.

    Raises:
        TimbreflowError: the data has not passed validation, a model is missing or of other features, the settings do
            not fit the audio section, or training diverged.
    """
    # passed.json does not cover triples that are rendered during training.
    parts = (features, rendering) if config.online_triples else (features,)
    training = Training("train_refiner", config, *parts, layout=layout, log=log, device=device)
    place = training.device
    for name in ("n_features", "fmin", "fmax", "floor"):
        if getattr(config.model, name) != getattr(features, name):
            raise TimbreflowError(
                f"train_refiner.model.{name} is {getattr(config.model, name)} and the features have "
                f"{getattr(features, name)}; set it to that."
            )
    inputs = RenderInputs(rendering, layout.notes, layout.soundfonts) if rendering else None
    data = open_triples(layout.mels, layout.audio, features, config, kind=features.kind, device=place, rendering=inputs)
    assert data.normalizer is not None
    objective = refiner_objective(config, features, data.normalizer, layout=layout, device=place)
    seed_everything(config.fit.seed, "model")
    model = Refiner(config.model)
    model.use_statistics(data.normalizer)
    training.begin(model, data.features, models={name: weights_sha256(layout.model(name)) for name in config.models})

    def summary(result: FitResult, metrics: Mapping[str, float]) -> str:
        changes = ", ".join(
            f"{n} {metrics[f'val_unrefined/{n}']:.4f} -> {metrics[f'val_l1/{n}']:.4f}" for n in config.models
        )
        return (
            f"Refiner: {result.steps} steps, validation L1 {changes} at step {result.best_step}, "
            f"{result.examples_per_second:.1f} triples/s"
        )

    # The refiner takes raw features, so its bundle holds no statistics.
    return training.run(model, objective, dataclasses.replace(data, normalizer=None), summary=summary)


def refiner_objective(
    config: RefinerTraining, features: FeatureConfig, normalizer: Normalizer, *, layout: Layout, device: torch.device
) -> RefinerObjective:
    """What the section trains a refiner for, behind the trained models and on batches of these statistics.

    Raises:
        TimbreflowError: a model is missing or unusable, or takes other features.
    """
    models = {}
    for name in config.models:
        folder = layout.model(name)
        bundle = load_bundle(folder)
        if bundle.features != features or bundle.normalizer is None or not isinstance(bundle.model, VQVAE | Glow):
            raise TimbreflowError(f"{folder} is no transfer model of these features; train it again.")
        model = place_model(bundle.model.requires_grad_(False), config.fit.precision, device)
        models[name] = (model, bundle.normalizer)
    return RefinerObjective(
        models,
        normalizer,
        temperature=config.temperature,
        true_steps=config.true_steps,
        true_share=config.true_share,
        note_steps=config.note_steps,
    )
