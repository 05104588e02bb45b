"""The gate of promotion: may a challenger take the champion's place?

Conventions:
    Challenger and opponent (the champion, else the released model) are compared on the same test clips, measured by the
    same metric code, criterion by criterion. What decides are the bounds of 95 % intervals of the difference, from a
    bootstrap that is paired over clips (`metrics.statistics`). A challenger passes if no criterion may be worse beyond
    its slack and at least one is certainly better, so that a tie keeps the champion. It is also held against the
    released model, so that many small losses cannot add up, and against absolute limits, always.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate_config import CriterionConfig, GateConfig
from timbreflow.metrics.registry import BY_NAME, METRICS, OWN, Metric
from timbreflow.metrics.statistics import Interval, bootstrap
from timbreflow.models.catalogue import KnownModel

DIGESTS = ("metric_digest", "test_digest")
ENOUGH_CLIPS = 200
"""Below this a decision comes with a warning."""
SAMPLES = 4000
"""Bootstrap draws."""
OWN_METRICS = {
    metric.name: metric for metric in METRICS if metric.sources and all(source == OWN for source, _ in metric.sources)
}
"""What is measured on the clips of one system alone, by name."""
COLUMNS = list(dict.fromkeys(column for metric in OWN_METRICS.values() for _, column in metric.sources))
"""Their columns of the per-clip table."""

Evaluate = Callable[[KnownModel, Path], tuple[Mapping[str, Any], pd.DataFrame]]
"""Measures the bundle in a folder on today's test clips: the content of metrics.json and the per-clip table."""


@dataclass(frozen=True)
class Measured:
    """A model's figures, clip by clip, and what they are figures of.

    Args:
        system: name of the model.
        weights: its hashes, as `vocoding.identity` gives them.
        metric_digest: names the metric code and its weights.
        test_digest: names the test clips.
        clips: one row a set and triple: set, triple_id and those of `COLUMNS` that were measured.
    """

    system: str
    weights: Mapping[str, str]
    metric_digest: str
    test_digest: str
    clips: pd.DataFrame

    @property
    def digests(self) -> dict[str, str]:
        """Both digests; figures are comparable where these are equal."""
        return {"metric_digest": self.metric_digest, "test_digest": self.test_digest}

    @cached_property
    def sets(self) -> dict[str, pd.DataFrame]:
        """Set to its rows, in the order of the triples' ids."""
        return {str(name): rows.sort_values("triple_id") for name, rows in self.clips.groupby("set", sort=False)}

    def on(self, name: str) -> pd.DataFrame:
        """The rows of a set.

        Raises:
            TimbreflowError: it was not evaluated.
        """
        if name not in self.sets:
            raise TimbreflowError(f"{self.system} was not evaluated on the set {name}; run `dvc repro evaluate`.")
        return self.sets[name]

    def figures(self, name: str) -> dict[str, Interval]:
        """Every metric's figure on a set, with its interval; metrics that were measured on no clip are left out."""
        rows = self.on(name)
        return {
            metric.name: bootstrap(columns, metric.statistic, samples=SAMPLES, seed=0)
            for metric in OWN_METRICS.values()
            if all(column in rows for _, column in metric.sources) and len((columns := _columns(metric, rows))[0])
        }


@dataclass(frozen=True)
class Candidate:
    """A model together with what is known of it, ready for the registry.

    Args:
        model: which one it is.
        folder: its bundle.
        measured: its figures.
        tags: further facts, such as the data's digest.
        released: whether git holds it below released/, so that it was not made by this checkout.
    """

    model: KnownModel
    folder: Path
    measured: Measured
    tags: Mapping[str, str]
    released: bool = False


@dataclass(frozen=True)
class Check:
    """Result of one criterion.

    Args:
        criterion: in words, such as "lsd at most 2 % worse than the champion's".
        metric: its name; "clips" and "better" for the number of clips and of criteria that are better.
        opponent: the opponent's figure; None where there is none to compare with.
        difference: challenger - opponent, with its paired 95 % interval.
    """

    criterion: str
    metric: str
    challenger: float
    opponent: float | None
    difference: Interval | None
    passed: bool


@dataclass(frozen=True)
class Decision:
    """All checks, and a sentence where there were few clips."""

    checks: tuple[Check, ...]
    warning: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check was passed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that were not passed."""
        return tuple(check for check in self.checks if not check.passed)

    def rows(self) -> list[tuple[str, ...]]:
        """The checks as a table of texts, under their heads."""
        table: list[tuple[str, ...]] = [("criterion", "challenger", "opponent", "difference", "")]
        for check in self.checks:
            opponent = "-" if check.opponent is None else f"{check.opponent:.4g}"
            bounds = check.difference
            difference = "-" if bounds is None else f"{bounds.value:+.3g} ({bounds.low:+.3g} to {bounds.high:+.3g})"
            verdict = "passed" if check.passed else "FAILED"
            table.append((check.criterion, f"{check.challenger:.4g}", opponent, difference, verdict))
        return table


def measured(metrics: Mapping[str, Any], table: pd.DataFrame, system: str) -> Measured:
    """The part of an evaluation (metrics.json and its per-clip table) that belongs to one model.

    Raises:
        TimbreflowError: it was not evaluated, or a digest is missing.
    """
    rows = table[table["system"] == system]
    weights = metrics.get("weights", {}).get(system)
    if rows.empty or weights is None:
        raise TimbreflowError(f"the evaluation has no clips of {system}; run `dvc repro evaluate`.")
    if missing := [name for name in DIGESTS if not metrics.get(name)]:
        raise TimbreflowError(f"results/evaluate/metrics.json lacks {', '.join(missing)}; run `dvc repro evaluate`.")
    columns = ["set", "triple_id", *(column for column in COLUMNS if column in rows)]
    digests = {name: str(metrics[name]) for name in DIGESTS}
    return Measured(system, weights, clips=rows[columns].reset_index(drop=True), **digests)


def decide(
    challenger: Measured,
    gate: GateConfig,
    *,
    opponent: Measured | None = None,
    floor: Measured | None = None,
    name: str = "opponent",
) -> Decision:
    """Hold a challenger against the limits, an opponent that it must beat, and a floor that it must not fall below.

    Args:
        challenger: what may be promoted.
        gate: what is asked for.
        opponent: the champion or the released model; None where there is none.
        floor: the released model, where it is not the opponent.
        name: of the opponent, in words.

    Raises:
        TimbreflowError: a figure is missing or not finite, or the clips are not the same.
    """
    n_clips = len(challenger.on(gate.set))
    checks = [
        Check(
            f"at least {gate.min_triples} clips of {gate.set}",
            "clips",
            float(n_clips),
            None,
            None,
            n_clips >= gate.min_triples,
        ),
        *limits(challenger, gate),
    ]
    warning = ""
    if opponent is not None:
        compared = _not_worse(challenger, opponent, gate, name)
        better = [check.metric for check in compared if _better(check, gate.criteria[check.metric])]
        count = float(len(better))
        text = "certainly better on at least one criterion (a tie keeps what is there)"
        checks += [*compared, Check(text, "better", count, None, None, count > 0)]
        if n_clips < ENOUGH_CLIPS:
            warning = _warning(compared, n_clips, gate.set)
    if floor is not None:
        checks += _not_worse(challenger, floor, gate, "released model")
    return Decision(tuple(checks), warning)


def limits(challenger: Measured, gate: GateConfig) -> list[Check]:
    """The absolute limits, which hold whoever the opponent is."""
    rows, checks = challenger.on(gate.set), []
    for name, criterion in sorted(gate.criteria.items()):
        metric = BY_NAME[name]
        figure = float(metric.statistic(*(np.asarray(column.mean()) for column in _columns(metric, rows))))
        lower = criterion.better == "lower"
        passed = figure <= criterion.limit if lower else figure >= criterion.limit
        text = f"{name} {'<=' if lower else '>='} {criterion.limit:.4g} (absolute limit)"
        checks.append(Check(text, name, figure, None, None, passed))
    return checks


def require_weights(found: Mapping[str, str], expected: Mapping[str, str], what: str) -> None:
    """Refuse figures of other weights.

    Raises:
        TimbreflowError: `what`, in words, is not what the figures were measured with.
    """
    if dict(found) != dict(expected):
        raise TimbreflowError(
            f"{what} does not hold the weights that were evaluated, or the vocoder or refiner beside it is another "
            "one; run `dvc repro evaluate`, then `timbreflow register`."
        )


def _not_worse(challenger: Measured, other: Measured, gate: GateConfig, name: str) -> list[Check]:
    """One check a criterion: by the interval, the challenger is at most the slack worse."""
    own, theirs = challenger.on(gate.set), other.on(gate.set)
    if list(own["triple_id"]) != list(theirs["triple_id"]) or challenger.digests != other.digests:
        raise TimbreflowError(
            f"challenger and {name} were not measured on the same clips by the same code; run `dvc repro evaluate`."
        )
    checks = []
    for key, criterion in sorted(gate.criteria.items()):
        metric, sign = BY_NAME[key], 1.0 if criterion.better == "lower" else -1.0
        columns = _columns(metric, own, theirs)
        half = len(columns) // 2

        def difference(*means: NDArray[np.float64], metric: Metric = metric, half: int = half) -> NDArray[np.float64]:
            return metric.statistic(*means[:half]) - metric.statistic(*means[half:])

        def excess(
            *means: NDArray[np.float64],
            metric: Metric = metric,
            half: int = half,
            sign: float = sign,
            slack: float = criterion.slack,
        ) -> NDArray[np.float64]:
            figure, opponent = metric.statistic(*means[:half]), metric.statistic(*means[half:])
            return sign * (figure - opponent) - slack * np.abs(opponent)

        means = [np.asarray(column.mean()) for column in columns]
        share = f"{100 * abs(criterion.slack):g} %"
        demand = f"at least {share} better" if criterion.slack < 0 else f"at most {share} worse"
        checks.append(
            Check(
                f"{key} {demand} than the {name}'s",
                key,
                float(metric.statistic(*means[:half])),
                float(metric.statistic(*means[half:])),
                bootstrap(columns, difference, samples=SAMPLES, seed=0),
                bootstrap(columns, excess, samples=SAMPLES, seed=0).high <= 0.0,
            )
        )
    return checks


def _better(check: Check, criterion: CriterionConfig) -> bool:
    assert check.difference is not None
    return check.difference.high < 0.0 if criterion.better == "lower" else check.difference.low > 0.0


def _warning(checks: list[Check], n_clips: int, name: str) -> str:
    """How small a difference these clips cannot tell from chance."""
    parts = [
        f"{50 * (check.difference.high - check.difference.low) / abs(check.opponent):.2g} % of {check.metric}"
        for check in checks
        if check.difference is not None and check.opponent
    ]
    return (
        f"{n_clips} clips of {name} do not tell differences below about {', '.join(parts)} from chance; {ENOUGH_CLIPS} "
        "or more (render_triples.triples) make promotion easier for a model that is a little better."
    )


def _columns(metric: Metric, *tables: pd.DataFrame) -> list[NDArray[np.float64]]:
    """Columns of the same clips [n] of one or two models, without clips that an optional metric has no figure for."""
    names = [column for _, column in metric.sources]
    if missing := [name for name in names if any(name not in table for table in tables)]:
        raise TimbreflowError(f"no figure for {metric.name}: {missing[0]} is not measured; run `dvc repro evaluate`.")
    columns = [table[name].to_numpy(dtype=np.float64) for table in tables for name in names]
    if metric.optional:
        kept = np.isfinite(columns).all(axis=0)
        columns = [column[kept] for column in columns]
    return columns
