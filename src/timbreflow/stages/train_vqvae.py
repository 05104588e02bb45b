"""Train one variant of the VQ-VAE on triples."""

import dataclasses
from typing import Literal

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.renderer import RenderInputs
from timbreflow.models.catalogue import trained_by
from timbreflow.models.devices import resolve_device
from timbreflow.models.vqvae import VQVAE
from timbreflow.rendering.config import RenderConfig
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.training.config import VQVAETraining
from timbreflow.training.objectives import VQVAEObjective
from timbreflow.training.products import begin_with, read_passed, train, work_key
from timbreflow.training.seeding import seed_everything
from timbreflow.training.triple_source import open_source


def run(
    variant: Literal["paper", "base"],
    config: VQVAETraining,
    features: FeatureConfig,
    rendering: RenderConfig | None = None,
    *,
    layout: Layout,
    log: MetricLogger,
    device: str | None = None,
) -> StageResult:
    """Train and store `data/models/<name of the variant's model>` and `results/train_vqvae/<variant>/`.

    Args:
        variant: names the outputs.
        config: the variant's section of params.yaml.
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
        layout.mels, layout.audio, features, config, kind=config.features, device=place, rendering=inputs
    )
    source.check(config.model.n_features, section=f"train_vqvae.{variant}.model.n_features")
    seed_everything(config.fit.seed, "model")
    model = VQVAE(config.model)
    begun = begin_with(model, layout.root / config.init_from, source.features)[0] if config.init_from else ""
    # What the passed data does not tell of triples that are not among it.
    drawn = [rendering] if rendering and config.online_triples else []
    result, metrics = train(
        model,
        VQVAEObjective(reconstruction=config.reconstruction, weights=config.losses),
        source.batches,
        source.validation,
        config.fit,
        kind="vqvae",
        features=source.features,
        normalizer=source.normalizer,
        settings={"variant": variant, "section": dataclasses.asdict(config), "data": passed, "begun": begun},
        bundle=layout.model(trained_by(f"train_vqvae.{variant}").name),
        results=layout.results("train_vqvae") / variant,
        workdir=layout.scratch(
            "train_vqvae", work_key(f"train_vqvae/{variant}{begun}", passed, config, features, *drawn)
        ),
        log=log,
        device=place,
    )
    return StageResult(
        summary=f"VQ-VAE {variant}: {result.steps} steps, validation L1 {metrics['val_l1']:.4f} "
        f"at step {result.best_step}, {result.examples_per_second:.1f} triples/s",
        metrics=metrics,
        files={"curves": layout.results("train_vqvae") / variant / "curves.csv"},
        facts={"precision": result.precision},
    )
