"""Train the Glow whose couplings are conditioned on content and style."""

import dataclasses

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.renderer import RenderInputs
from timbreflow.models.devices import resolve_device
from timbreflow.models.glow.model import Glow
from timbreflow.rendering.config import RenderConfig
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.training.config import GlowTraining
from timbreflow.training.data import open_triples
from timbreflow.training.device import place_batch, place_model
from timbreflow.training.objectives import GlowObjective
from timbreflow.training.run import TrainingRun, begin_with, read_passed
from timbreflow.training.seeding import seed_everything


def run(
    config: GlowTraining,
    features: FeatureConfig,
    rendering: RenderConfig | None = None,
    *,
    layout: Layout,
    log: MetricLogger,
    device: str | None = None,
) -> StageResult:
    """Train and store `data/models/glow` and `results/train_glow/`; `config.online_triples` needs `rendering`.

    Raises:
        TimbreflowError: the data has not passed validation, does not fit the settings, or training diverged.
    """
    passed = read_passed(layout.results("validate_data") / "passed.json")
    place = resolve_device(device)
    inputs = RenderInputs(rendering, layout.notes, layout.soundfonts) if rendering else None
    data = open_triples(layout.mels, layout.audio, features, config, kind=features.kind, device=place, rendering=inputs)
    data.check(config.model.n_features, setting="train_glow.model.n_features")
    objective = GlowObjective(noise=config.noise, l1=config.l1, l1_every=config.l1_every, weights=config.losses)
    seed_everything(config.fit.seed, "model")
    model = place_model(Glow(config.model), config.fit.precision, place)
    begun, whole = "", False
    if config.init_from:
        begun, whole = begin_with(model, layout.root / config.init_from, data.features)
    if not whole:
        seed_everything(config.fit.seed, "initialize")
        objective.initialize(model, place_batch(next(iter(data.batches(0))), config.fit.precision, place))
    training = TrainingRun(
        kind="glow",
        fit=config.fit,
        settings={"section": dataclasses.asdict(config), "data": passed, "begun": begun},
        # passed.json does not cover triples that are rendered during training.
        inputs=(features, rendering) if config.online_triples else (features,),
        bundle=layout.model("glow"),
        results=layout.results("train_glow"),
        scratch=layout.scratch("train_glow"),
        log=log,
        device=place,
    )
    result, metrics = training.train(model, objective, data)
    return StageResult(
        summary=f"Glow: {result.steps} steps, {metrics['val_glow/bits_per_dim']:.3f} bits/dim, "
        f"validation L1 at T=0 {metrics['val_l1']:.4f} at step {result.best_step}, "
        f"{result.examples_per_second:.1f} triples/s",
        metrics=metrics,
        files={"curves": training.results / "curves.csv"},
        facts={"precision": result.precision},
    )
