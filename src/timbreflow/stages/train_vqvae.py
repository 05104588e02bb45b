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
from timbreflow.training.data import open_triples
from timbreflow.training.objectives import VQVAEObjective
from timbreflow.training.run import TrainingRun, begin_with, read_passed
from timbreflow.training.seeding import seed_everything


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

    `config.online_triples` needs `rendering`.

    Raises:
        TimbreflowError: the data has not passed validation, does not fit the settings, or training diverged.
    """
    passed = read_passed(layout.results("validate_data") / "passed.json")
    place = resolve_device(device)
    inputs = RenderInputs(rendering, layout.notes, layout.soundfonts) if rendering else None
    data = open_triples(
        layout.mels, layout.audio, features, config, kind=config.features, device=place, rendering=inputs
    )
    data.check(config.model.n_features, setting=f"train_vqvae.{variant}.model.n_features")
    seed_everything(config.fit.seed, "model")
    model = VQVAE(config.model)
    begun = begin_with(model, layout.root / config.init_from, data.features)[0] if config.init_from else ""
    training = TrainingRun(
        kind="vqvae",
        fit=config.fit,
        settings={"variant": variant, "section": dataclasses.asdict(config), "data": passed, "begun": begun},
        # passed.json does not cover triples that are rendered during training.
        inputs=(features, rendering) if config.online_triples else (features,),
        bundle=layout.model(trained_by(f"train_vqvae.{variant}").name),
        results=layout.results("train_vqvae") / variant,
        scratch=layout.scratch("train_vqvae"),
        log=log,
        device=place,
    )
    objective = VQVAEObjective(reconstruction=config.reconstruction, weights=config.losses)
    result, metrics = training.train(model, objective, data)
    return StageResult(
        summary=f"VQ-VAE {variant}: {result.steps} steps, validation L1 {metrics['val_l1']:.4f} "
        f"at step {result.best_step}, {result.examples_per_second:.1f} triples/s",
        metrics=metrics,
        files={"curves": training.results / "curves.csv"},
        facts={"precision": result.precision},
    )
