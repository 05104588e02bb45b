"""Train the refiner behind the frozen transfer models of the run."""

import dataclasses

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.renderer import RenderInputs
from timbreflow.errors import TimbreflowError
from timbreflow.models.bundle import load_bundle, weights_sha256
from timbreflow.models.devices import resolve_device
from timbreflow.models.glow.model import Glow
from timbreflow.models.refiner import Refiner
from timbreflow.models.vqvae import VQVAE
from timbreflow.rendering.config import RenderConfig
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.training.config import RefinerTraining
from timbreflow.training.data import open_triples
from timbreflow.training.device import place_model
from timbreflow.training.objectives import RefinerObjective
from timbreflow.training.run import TrainingRun, begin_with, read_passed
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
    """Train and store `data/models/refiner` and `results/train_refiner/`.

    Args:
        config: the section of params.yaml; its models must be trained.
        features: the audio section.
        rendering: the section render_triples, which `config.online_triples` needs.
        layout: paths.
        log: metric logger.
        device: overrides TIMBREFLOW_DEVICE.

    Raises:
        TimbreflowError: the data has not passed validation, a model is missing or of other features, the settings do
            not fit the audio section, or training diverged.
    """
    passed = read_passed(layout.results("validate_data") / "passed.json")
    place = resolve_device(device)
    for name in ("n_features", "fmin", "fmax", "floor"):
        if getattr(config.model, name) != getattr(features, name):
            raise TimbreflowError(
                f"train_refiner.model.{name} is {getattr(config.model, name)} and the features have "
                f"{getattr(features, name)}; set it to that."
            )
    inputs = RenderInputs(rendering, layout.notes, layout.soundfonts) if rendering else None
    data = open_triples(layout.mels, layout.audio, features, config, kind=features.kind, device=place, rendering=inputs)
    assert data.normalizer is not None
    models = {}
    for name in config.models:
        bundle = load_bundle(layout.model(name))
        if bundle.features != features or bundle.normalizer is None or not isinstance(bundle.model, VQVAE | Glow):
            raise TimbreflowError(f"{layout.model(name)} is no transfer model of these features; train it again.")
        models[name] = (place_model(bundle.model.requires_grad_(False), config.fit.precision, place), bundle.normalizer)
    seed_everything(config.fit.seed, "model")
    model = Refiner(config.model)
    model.use_statistics(data.normalizer)
    begun = begin_with(model, layout.root / config.init_from, data.features)[0] if config.init_from else ""
    objective = RefinerObjective(
        models,
        data.normalizer,
        temperature=config.temperature,
        true_steps=config.true_steps,
        true_share=config.true_share,
    )
    behind = {name: weights_sha256(layout.model(name)) for name in config.models}
    training = TrainingRun(
        kind="refiner",
        fit=config.fit,
        settings={"section": dataclasses.asdict(config), "data": passed, "begun": begun, "models": behind},
        inputs=(features, rendering) if config.online_triples else (features,),
        bundle=layout.model("refiner"),
        results=layout.results("train_refiner"),
        scratch=layout.scratch("train_refiner"),
        log=log,
        device=place,
    )
    result, metrics = training.train(model, objective, dataclasses.replace(data, normalizer=None))
    changes = ", ".join(f"{n} {metrics[f'val_unrefined/{n}']:.4f} -> {metrics[f'val_l1/{n}']:.4f}" for n in models)
    return StageResult(
        summary=f"Refiner: {result.steps} steps, validation L1 {changes} at step {result.best_step}, "
        f"{result.examples_per_second:.1f} triples/s",
        metrics=metrics,
        files={"curves": training.results / "curves.csv"},
        facts={"precision": result.precision},
    )
