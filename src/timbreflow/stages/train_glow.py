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
from timbreflow.training.objectives import GlowObjective
from timbreflow.training.placing import place_batch, place_model
from timbreflow.training.products import begin_with, read_passed, train, work_key
from timbreflow.training.seeding import seed_everything
from timbreflow.training.triple_source import open_source


def run(
    config: GlowTraining,
    features: FeatureConfig,
    rendering: RenderConfig | None = None,
    *,
    layout: Layout,
    log: MetricLogger,
    device: str | None = None,
) -> StageResult:
    """Train and store `data/models/glow` and `results/train_glow/`.

    Args:
        config: the section of params.yaml.
        features: the audio section.
        rendering: the section render_triples, which `config.online_triples` needs.
        layout: paths.
        log: metric logger.
        device: overrides TIMBREFLOW_DEVICE.

    Raises:
        TimbreflowError: the data has not passed validation, does not fit the settings, or training diverged.
    """
    passed = read_passed(layout.results("validate_data") / "passed.json")
    place = resolve_device(device)
    inputs = RenderInputs(rendering, layout.notes, layout.soundfonts) if rendering else None
    source = open_source(
        layout.mels, layout.audio, features, config, kind=features.kind, device=place, rendering=inputs
    )
    source.check(config.model.n_features, section="train_glow.model.n_features")
    objective = GlowObjective(noise=config.noise, l1=config.l1, l1_every=config.l1_every, weights=config.losses)
    seed_everything(config.fit.seed, "model")
    model = place_model(Glow(config.model), config.fit, place)
    begun, whole = "", False
    if config.init_from:
        begun, whole = begin_with(model, layout.root / config.init_from, source.features)
    if not whole:
        seed_everything(config.fit.seed, "initialize")
        objective.initialize(model, place_batch(next(iter(source.batches(0))), config.fit, place))
    # What the passed data does not tell of triples that are not among it.
    drawn = [rendering] if rendering and config.online_triples else []
    result, metrics = train(
        model,
        objective,
        source.batches,
        source.validation,
        config.fit,
        kind="glow",
        features=source.features,
        normalizer=source.normalizer,
        settings={"section": dataclasses.asdict(config), "data": passed, "begun": begun},
        bundle=layout.model("glow"),
        results=layout.results("train_glow"),
        workdir=layout.scratch("train_glow", work_key(f"train_glow{begun}", passed, config, features, *drawn)),
        log=log,
        device=place,
    )
    return StageResult(
        summary=f"Glow: {result.steps} steps, {metrics['val_glow/bits_per_dim']:.3f} bits/dim, "
        f"validation L1 at T=0 {metrics['val_l1']:.4f} at step {result.best_step}, "
        f"{result.examples_per_second:.1f} triples/s",
        metrics=metrics,
        files={"curves": layout.results("train_glow") / "curves.csv"},
        facts={"precision": result.precision},
    )
