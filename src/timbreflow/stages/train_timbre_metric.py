"""Train the triplet network that measures timbre; its weights are frozen before any model is compared."""

from timbreflow.audio.features import FeatureConfig
from timbreflow.models.timbre_metric import TripletNetwork
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.stages.training import Training
from timbreflow.training.config import TimbreMetricTraining
from timbreflow.training.data import TrainingData
from timbreflow.training.objectives import TripletObjective
from timbreflow.training.seeding import seed_everything
from timbreflow.training.triplets import Triplets


def run(
    config: TimbreMetricTraining,
    features: FeatureConfig,
    *,
    layout: Layout,
    log: MetricLogger,
    device: str | None = None,
) -> StageResult:
    """Train and store `data/models/timbre_metric` and `results/train_timbre_metric/`.

    Raises:
        TimbreflowError: the data has not passed validation, or training diverged.
    """
    training = Training("train_timbre_metric", config, features, layout=layout, log=log, device=device)
    train_split, held_out = (
        Triplets(
            layout.audio,
            split=split,
            sample_rate=features.sample_rate,
            hard_negatives=config.hard_negatives,
            seed=config.fit.seed,
            cache_mb=config.cache_mb,
            device=training.device,
        )
        for split in ("train", "validation")
    )
    size = config.fit.batch_size
    numbers = list(range(max(size, config.validation_triplets - config.validation_triplets % size)))
    data = TrainingData(
        batches=lambda start: train_split.batches(start, batch_size=size),
        validation=[held_out.batch(numbers[start : start + size]) for start in range(0, len(numbers), size)],
        features=features,
        normalizer=None,
    )
    seed_everything(config.fit.seed, "model")
    return training.run(
        TripletNetwork(config.model),
        TripletObjective(margin=config.margin),
        data,
        summary=lambda result, metrics: (
            f"Timbre metric: {result.steps} steps, {metrics['val_triplet/accuracy']:.1%} of validation triplets "
            f"in order at step {result.best_step}"
        ),
    )
