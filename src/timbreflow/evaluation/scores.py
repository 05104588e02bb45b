"""From figures of clips to figures of systems: means, ratios and gaps, each with its interval."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.evaluator import SetResult
from timbreflow.files import sha256_file
from timbreflow.metrics.frechet import frechet_distance
from timbreflow.metrics.gap import gap_closed, generalisation_gap
from timbreflow.metrics.onsets import note_score
from timbreflow.metrics.statistics import Interval, bootstrap, mean_interval, paired_difference
from timbreflow.metrics.transcription import network_file

METRIC_VERSION = 1
"""Raised with every change of metric code that moves a figure: figures of different versions are not compared."""

CLIP_METRICS = ("lsd", "timbre", "timbre_mfcc", "pitch", "onset_f1", "stft")
DISTANCES = ("lsd", "timbre", "timbre_mfcc", "pitch")
HIGHER_IS_BETTER = ("onset_f1", "note_score", *(f"{metric}_gap_closed" for metric in DISTANCES))
MOVING = ("temperature", "variance_scale", "seed", "batch_size", "griffin_lim_iterations", "griffin_lim_momentum")
"""Settings of `EvaluationConfig` that move figures: what is drawn and how it is inverted (noise goes by batches)."""
OF_MODELS = ("temperature", "variance_scale")
"""Those of them that move models only."""
HASHED_AS = {"variance_scale": "contrast"}
"""Former names of settings: digests of stored figures were made with them."""
DECIMALS = 5
"""Of figures at rest: finer digits change with the number of threads and would make every run a change in git."""


@dataclass(frozen=True)
class Scores:
    """All figures.

    Args:
        sets: set to system to metric to interval.
        generalisation: system to distance to (unseen - seen) / seen.
        comparisons: set to "first - second" to metric to the interval of the paired difference between two models.
        metric_digest: names metric code and weights.
        test_digest: names the test clips.
        weights: system, or timbre_metric, to the sha256 of the weights that were measured (`vocoding.identity`).
    """

    sets: dict[str, dict[str, dict[str, Interval]]]
    generalisation: dict[str, dict[str, float]]
    comparisons: dict[str, dict[str, dict[str, Interval]]]
    metric_digest: str
    test_digest: str
    weights: dict[str, dict[str, str]] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json: plain figures for `dvc metrics`, the two digests, and whose figures they are."""
        figures: dict[str, Any] = {
            split: {
                system: {metric: _rounded(interval.value) for metric, interval in row.items()}
                for system, row in rows.items()
            }
            for split, rows in self.sets.items()
        }
        if self.generalisation:
            figures["generalisation_gap"] = {
                system: {metric: _rounded(value) for metric, value in row.items()}
                for system, row in self.generalisation.items()
            }
        return figures | {
            "metric_digest": self.metric_digest,
            "test_digest": self.test_digest,
            "weights": self.weights,
        }

    def intervals(self) -> dict[str, Any]:
        """Content of scores.json: every figure with the bounds of its 95 % interval, where it has one."""
        return {"sets": _plain(self.sets), "comparisons": _plain(self.comparisons)}


def per_clip_table(results: Sequence[SetResult]) -> pd.DataFrame:
    """One row a set, triple and system, sorted, with the metrics as columns."""
    table = pd.DataFrame([row for result in results for row in result.rows])
    return table.sort_values(["set", "system", "triple_id"], ignore_index=True)


def summarise(
    results: Sequence[SetResult],
    *,
    models: Sequence[str],
    samples: int,
    seed: int,
    metric_digest: str,
    test_digest: str,
) -> Scores:
    """Figures of all systems on all sets.

    Args:
        results: one a set, in the order of the report; with `test` and `test_seen` among them the generalisation gap
            is reported too.
        models: systems that are compared pair by pair.
        samples: bootstrap draws.
        seed: of the bootstrap.
        metric_digest: of `digest_of_metrics`.
        test_digest: of `clips.digest_of_clips`.
    """
    table = per_clip_table(results)
    sets = {result.split: _set_scores(result, table, samples=samples, seed=seed) for result in results}
    comparisons = {
        result.split: {
            f"{first} - {second}": {
                metric: paired_difference(
                    _column(table, result.split, first, metric),
                    _column(table, result.split, second, metric),
                    samples=samples,
                    seed=seed,
                )
                for metric in CLIP_METRICS
            }
            for first, second in combinations(models, 2)
        }
        for result in results
    }
    return Scores(sets, _generalisation(sets), comparisons, metric_digest, test_digest)


def digest_of_metrics(timbre_weights: Path, config: EvaluationConfig, *, drawn: bool = True) -> str:
    """sha256 that changes with all that moves a figure of given weights on given clips.

    That is the metric code's version, the timbre metric's weights, the transcriber's, and of the settings those that
    decide what is heard (`MOVING`); how many triples and which sets are in the digest of the clips.

    Args:
        timbre_weights: of the timbre metric.
        config: section `evaluate`.
        drawn: whether the figures may be of models, which have a temperature and a variance scale; baselines do not.

    Raises:
        TimbreflowError: the weights are missing.
    """
    if not timbre_weights.is_file():
        raise TimbreflowError(f"{timbre_weights} is missing; run `dvc repro train_timbre_metric`.")
    settings = {HASHED_AS.get(name, name): getattr(config, name) for name in MOVING if drawn or name not in OF_MODELS}
    parts = [METRIC_VERSION, sha256_file(timbre_weights), sha256_file(network_file()), settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _set_scores(result: SetResult, table: pd.DataFrame, *, samples: int, seed: int) -> dict[str, dict[str, Interval]]:
    systems = [name for name in result.embeddings if name != "target"]
    scores: dict[str, dict[str, Interval]] = {}
    for system in systems:
        own = {metric: _column(table, result.split, system, metric) for metric in CLIP_METRICS}
        row = {metric: mean_interval(values, samples=samples, seed=seed) for metric, values in own.items()}
        ceilings = [_column(table, result.split, system, f"onset_f1_{role}") for role in ("target", "content")]
        row["note_score"] = bootstrap([own["onset_f1"], *ceilings], note_score, samples=samples, seed=seed)
        if {"content_copied", "oracle"} <= set(systems):
            for metric in DISTANCES:
                ends = [_column(table, result.split, end, metric) for end in ("content_copied", "oracle")]
                row[f"{metric}_gap_closed"] = bootstrap(
                    [ends[0], own[metric], ends[1]], gap_closed, samples=samples, seed=seed
                )
        if len(result.embeddings["target"]) > 1:
            distance = frechet_distance(result.embeddings[system], result.embeddings["target"])
            row["frechet"] = Interval(distance)
        scores[system] = row
    return scores


def _generalisation(sets: Mapping[str, Mapping[str, Mapping[str, Interval]]]) -> dict[str, dict[str, float]]:
    if not {"test", "test_seen"} <= set(sets):
        return {}
    return {
        system: {
            metric: generalisation_gap(row[metric].value, sets["test_seen"][system][metric].value)
            for metric in DISTANCES
        }
        for system, row in sets["test"].items()
    }


def _column(table: pd.DataFrame, split: str, system: str, metric: str) -> NDArray[np.float64]:
    """Values of all triples, in the order of their ids, so that columns of two systems are paired."""
    chosen = table[(table["set"] == split) & (table["system"] == system)]
    return chosen[metric].to_numpy(dtype=np.float64)


def _rounded(value: float) -> float:
    return round(float(value), DECIMALS)


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: _rounded(bound) for name, bound in asdict(value).items() if not math.isnan(bound)}
    return {name: _plain(inner) for name, inner in value.items()}
