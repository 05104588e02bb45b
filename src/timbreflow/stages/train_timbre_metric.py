"""Train the triplet network that measures timbre; its weights are frozen before any model is compared."""

import dataclasses

from timbreflow.audio.features import FeatureConfig
from timbreflow.models.devices import resolve_device
from timbreflow.models.timbre_metric import TripletNetwork
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.training.config import TimbreMetricTraining
from timbreflow.training.data import TrainingData
from timbreflow.training.objectives import TripletObjective
from timbreflow.training.run import TrainingRun, read_passed
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
    passed = read_passed(layout.results("validate_data") / "passed.json")
    place = resolve_device(device)
    train_split, held_out = (
        Triplets(
            layout.audio,
            split=split,
            sample_rate=features.sample_rate,
            hard_negatives=config.hard_negatives,
            seed=config.fit.seed,
            cache_mb=config.cache_mb,
            device=place,
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
    training = TrainingRun(
        kind="triplet",
        fit=config.fit,
        settings={"section": dataclasses.asdict(config), "data": passed},
        inputs=(features,),
        bundle=layout.model("timbre_metric"),
        results=layout.results("train_timbre_metric"),
        scratch=layout.scratch("train_timbre_metric"),
        log=log,
        device=place,
    )
    seed_everything(config.fit.seed, "model")
    result, metrics = training.train(TripletNetwork(config.model), TripletObjective(margin=config.margin), data)
    return StageResult(
        summary=f"Timbre metric: {result.steps} steps, {metrics['val_triplet/accuracy']:.1%} of validation triplets "
        f"in order at step {result.best_step}",
        metrics=metrics,
        files={"curves": training.results / "curves.csv"},
        facts={"precision": result.precision},
    )
