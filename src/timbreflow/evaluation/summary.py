"""From the per-clip table to figures of systems: means, ratios, gaps and paired differences, each with its interval.

Conventions:
    Intervals are those of `statistics`: 95 %, drawn once for all columns of a figure, so that ratios and differences
    are paired. Instruments of targets are drawn, with all of their clips; contents are taken as they are. Fréchet
    distances need embeddings and have neither an interval nor a figure for stored rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from timbreflow.evaluation.systems import SYSTEMS, spec_of
from timbreflow.metrics.frechet import frechet_distance
from timbreflow.metrics.gap import generalisation_gap
from timbreflow.metrics.registry import DISTANCES, METRICS, OWN, Metric
from timbreflow.metrics.statistics import Interval, bootstrap, mean_interval

DECIMALS = 5
"""Of figures at rest: finer digits change with the number of threads and would make every run a change in git."""

Figures = dict[str, Interval]
"""Metric to interval, in the order of `METRICS`."""


@dataclass(frozen=True)
class Summary:
    """The figures of one test set.

    Args:
        n_triples: how many were evaluated.
        figures: system to its figures, in the order of `SYSTEMS`.
        differences: "first - second" to the paired differences of two systems.
        targets_family: accuracy of the family classifier on the true targets; None where it was not asked.
    """

    n_triples: int
    figures: dict[str, Figures]
    differences: dict[str, Figures]
    targets_family: Interval | None = None

    def means(self) -> dict[str, dict[str, float]]:
        """System to metric to value without bounds."""
        return {
            system: {name: interval.value for name, interval in row.items()} for system, row in self.figures.items()
        }

    def values(self) -> dict[str, dict[str, float]]:
        """The same, rounded for metrics.json."""
        rounded: dict[str, dict[str, float]] = plain(self.means())
        return rounded

    def flat(self, prefix: str) -> dict[str, float]:
        """The same as PREFIX/system/metric, for a MetricLogger."""
        return {
            f"{prefix}/{system}/{metric}": value
            for system, row in self.means().items()
            for metric, value in row.items()
        }


def summarize(
    table: pd.DataFrame, *, pairs: Sequence[tuple[str, str]] = (), samples: int, seed: int
) -> dict[str, Summary]:
    """Figures of every set and system of a per-clip table.

    A figure whose columns are missing, as those of a stored row that is older than a metric, is left out.

    Rows of all systems of a set are of the same triples; a table without a column `instrument`, as they had before, has
    intervals over single clips. For `pairs` (first, second) the difference first - second is computed, where both are
    there. `samples` are bootstrap draws. Sets are in the order of the table.

    Raises:
        TimbreflowError: a figure of a clip is NaN or infinite.
    """
    summaries = {}
    rank = {name: number for number, name in enumerate(SYSTEMS)}
    for name, rows in table.groupby("set", sort=False):
        systems = {
            str(system): own.sort_values("triple_id")
            for system, own in sorted(rows.groupby("system"), key=lambda entry: rank.get(str(entry[0]), len(rank)))
        }
        first = next(iter(systems.values()))
        targets = first.dropna(subset="family_target") if "family_target" in first else first[:0]
        summaries[str(name)] = Summary(
            n_triples=len(first),
            figures={system: _figures(systems, system, samples, seed) for system in systems},
            differences={
                f"{one} - {other}": _differences(systems, one, other, samples, seed)
                for one, other in pairs
                if {one, other} <= set(systems)
            },
            targets_family=mean_interval(
                targets["family_target"], samples=samples, seed=seed, clusters=targets.get("instrument")
            )
            if len(targets)
            else None,
        )
    return summaries


def generalisation(
    unseen: Mapping[str, Mapping[str, float]], seen: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """System to distance to (unseen - seen) / seen, of every system that competes; given are their mean distances."""
    return {
        system: {
            metric.name: generalisation_gap(row[metric.name], seen[system][metric.name])
            for metric in DISTANCES
            if metric.name in row and metric.name in seen[system]
        }
        for system, row in unseen.items()
        if system in seen and spec_of(system).competes
    }


def plain(value: Any) -> Any:
    """Nested figures as JSON: {value, low, high} of intervals, rounded; bounds that do not exist are left out."""
    if isinstance(value, Interval):
        return {name: round(bound, DECIMALS) for name, bound in asdict(value).items() if not math.isnan(bound)}
    if isinstance(value, float):
        return round(value, DECIMALS)
    return {name: plain(inner) for name, inner in value.items()}


@dataclass(frozen=True)
class _Columns:
    """What a figure is made of: paired columns [n], and the cluster of each clip."""

    values: list[NDArray[np.float64]]
    clusters: NDArray[np.object_] | None


def _figures(systems: Mapping[str, pd.DataFrame], system: str, samples: int, seed: int) -> Figures:
    found = {}
    for metric in METRICS:
        if not metric.sources:
            if (distance := _frechet(systems[system])) is not None:
                found[metric.name] = Interval(distance)
        elif (columns := _columns(systems, system, metric)) is not None:
            found[metric.name] = bootstrap(
                columns.values, metric.statistic, samples=samples, seed=seed, clusters=columns.clusters
            )
    return found


def _differences(systems: Mapping[str, pd.DataFrame], first: str, second: str, samples: int, seed: int) -> Figures:
    """Differences of all figures that are made of the two systems alone."""
    found = {}
    for metric in METRICS:
        if not metric.sources or any(source != OWN for source, _ in metric.sources):
            continue
        own, other = _columns(systems, first, metric), _columns(systems, second, metric)
        if own is not None and other is not None:

            def difference(
                *means: NDArray[np.float64], metric: Metric = metric, count: int = len(own.values)
            ) -> NDArray[np.float64]:
                return metric.statistic(*means[:count]) - metric.statistic(*means[count:])

            found[metric.name] = bootstrap(
                [*own.values, *other.values], difference, samples=samples, seed=seed, clusters=own.clusters
            )
    return found


def _columns(systems: Mapping[str, pd.DataFrame], system: str, metric: Metric) -> _Columns | None:
    """The columns that a figure is made of; None where one is missing or empty."""
    columns = []
    for source, name in metric.sources:
        table = systems.get(source or system)
        if table is None or name not in table or table[name].isna().all():
            return None
        columns.append(table[name].to_numpy(dtype=np.float64))
    kept = np.isfinite(columns).all(axis=0) if metric.optional else np.full(len(columns[0]), True)
    clusters = systems[system].get("instrument")
    return _Columns([column[kept] for column in columns], None if clusters is None else clusters.to_numpy()[kept])


def _frechet(rows: pd.DataFrame) -> float | None:
    if "embedding" not in rows or len(rows) < 2 or rows["embedding"].isna().any():
        return None
    return frechet_distance(*(np.stack(rows[name].tolist()) for name in ("embedding", "embedding_target")))
