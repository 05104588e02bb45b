"""Train the Glow whose couplings are conditioned on content and style."""

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.renderer import RenderInputs
from timbreflow.models.glow.model import Glow
from timbreflow.rendering.config import RenderConfig
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.stages.training import Training
from timbreflow.training.config import GlowTraining
from timbreflow.training.data import open_triples
from timbreflow.training.device import place_batch, place_model
from timbreflow.training.objectives import GlowObjective
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
    # passed.json does not cover triples that are rendered during training.
    parts = (features, rendering) if config.online_triples else (features,)
    training = Training("train_glow", config, *parts, layout=layout, log=log, device=device)
    place = training.device
    inputs = RenderInputs(rendering, layout.notes, layout.soundfonts) if rendering else None
    data = open_triples(layout.mels, layout.audio, features, config, kind=features.kind, device=place, rendering=inputs)
    data.check(config.model.n_features, setting="train_glow.model.n_features")
    objective = GlowObjective(noise=config.noise, l1=config.l1, l1_every=config.l1_every, weights=config.losses)
    seed_everything(config.fit.seed, "model")
    model = place_model(Glow(config.model), config.fit.precision, place)
    if not training.begin(model, data.features):
        seed_everything(config.fit.seed, "initialize")
        objective.initialize(model, place_batch(next(iter(data.batches(0))), config.fit.precision, place))
    return training.run(
        model,
        objective,
        data,
        summary=lambda result, metrics: (
            f"Glow: {result.steps} steps, {metrics['val_glow/bits_per_dim']:.3f} bits/dim, "
            f"validation L1 at T=0 {metrics['val_l1']:.4f} at step {result.best_step}, "
            f"{result.examples_per_second:.1f} triples/s"
        ),
    )
