"""Train one variant of the VQ-VAE on triples."""

from typing import Literal

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.renderer import RenderInputs
from timbreflow.models.vqvae import VQVAE
from timbreflow.rendering.config import RenderConfig
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.stages.training import Training
from timbreflow.training.config import VQVAETraining
from timbreflow.training.data import open_triples
from timbreflow.training.objectives import VQVAEObjective
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
    # passed.json does not cover triples that are rendered during training.
    parts = (features, rendering) if config.online_triples else (features,)
    training = Training(f"train_vqvae.{variant}", config, *parts, layout=layout, log=log, device=device)
    place = training.device
    inputs = RenderInputs(rendering, layout.notes, layout.soundfonts) if rendering else None
    data = open_triples(
        layout.mels, layout.audio, features, config, kind=config.features, device=place, rendering=inputs
    )
    data.check(config.model.n_features, setting=f"train_vqvae.{variant}.model.n_features")
    seed_everything(config.fit.seed, "model")
    model = VQVAE(config.model)
    training.begin(model, data.features)
    return training.run(
        model,
        VQVAEObjective(reconstruction=config.reconstruction, weights=config.losses),
        data,
        summary=lambda result, metrics: (
            f"VQ-VAE {variant}: {result.steps} steps, validation L1 {metrics['val_l1']:.4f} "
            f"at step {result.best_step}, {result.examples_per_second:.1f} triples/s"
        ),
    )
