"""The gate of promotion: may a challenger take the champion's place?

The challenger is compared with an opponent (the champion, else the released model) on the same test clips with the
same metric code, criterion by criterion; without an opponent, with absolute limits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from timbreflow.errors import TimbreflowError
from timbreflow.models.catalogue import KnownModel

DIGESTS = ("metric_digest", "test_digest")

Evaluate = Callable[[KnownModel, Path], Mapping[str, Any]]
"""Measures the bundle in a folder on today's test clips: figures in the shape of results/evaluate/metrics.json."""


@dataclass(frozen=True)
class CriterionConfig:
    """What one metric must fulfil.

    Args:
        better: whether lower or higher values are better.
        slack: share of the opponent's value by which the challenger may be worse; negative: must be better by that.
        limit: worst value that passes where there is no opponent.
    """

    better: Literal["lower", "higher"]
    slack: float
    limit: float


@dataclass(frozen=True)
class GateConfig:
    """The test set whose figures decide, and the criterion of each metric, by its name in metrics.json."""

    set: str
    criteria: dict[str, CriterionConfig]

    def __post_init__(self) -> None:
        """Refuse a gate that lets everything through."""
        if not self.criteria:
            raise TimbreflowError("the gate has no criteria; name at least one below register_models.gate.")


@dataclass(frozen=True)
class RegisterConfig:
    """Section `register_models` of params.yaml: what promotion asks for."""

    gate: GateConfig


@dataclass(frozen=True)
class Check:
    """Result of one criterion.

    Args:
        criterion: the criterion in words, such as "lsd <= 14.28 (champion 14.00)".
        opponent: the opponent's figure; None where an absolute limit was applied.
        limit: the worst figure that passes.
    """

    criterion: str
    metric: str
    challenger: float
    opponent: float | None
    limit: float
    passed: bool


@dataclass(frozen=True)
class Decision:
    """All checks."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check was passed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that were not passed."""
        return tuple(check for check in self.checks if not check.passed)


def decide(challenger: Mapping[str, float], opponent: Mapping[str, float] | None, gate: GateConfig) -> Decision:
    """Compare a challenger's row of `gate.set` in metrics.json with the opponent's, or with absolute limits.

    Raises:
        TimbreflowError: a figure is missing or not finite.
    """
    return Decision(
        tuple(
            _check(metric, criterion, _figure(challenger, metric, "challenger"), opponent)
            for metric, criterion in sorted(gate.criteria.items())
        )
    )


def comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two metrics.json were made by the same metric code and weights on the same test clips."""
    return all(first.get(digest) is not None and first.get(digest) == second.get(digest) for digest in DIGESTS)


def of_these_weights(metrics: Mapping[str, Any], system: str, weights: Mapping[str, str]) -> bool:
    """Whether a system's figures are those of weights with these hashes (`vocoding.identity`)."""
    return bool(metrics.get("weights", {}).get(system) == weights)


def require_measured(metrics: Mapping[str, Any], system: str, weights: Mapping[str, str], what: str) -> None:
    """Refuse figures of other weights.

    Raises:
        TimbreflowError: `what`, in words, is not what the figures were measured with.
    """
    if not of_these_weights(metrics, system, weights):
        raise TimbreflowError(
            f"{what} does not hold the weights that were evaluated, or the vocoder or refiner beside it is another "
            "one; run `dvc repro evaluate`, then `timbreflow register`."
        )


def row(metrics: Mapping[str, Any], system: str, gate: GateConfig) -> dict[str, float]:
    """A system's figures on the gate's set, out of a whole metrics.json.

    Raises:
        TimbreflowError: the set or the system is not in it.
    """
    try:
        return dict(metrics[gate.set][system])
    except KeyError as error:
        raise TimbreflowError(
            f"metrics.json has no figures of {system} on {gate.set} ({error} is missing); run `dvc repro evaluate`."
        ) from error


def _check(metric: str, criterion: CriterionConfig, figure: float, opponent: Mapping[str, float] | None) -> Check:
    lower = criterion.better == "lower"
    if opponent is None:
        other, limit = None, criterion.limit
        origin = "absolute limit"
    else:
        other = _figure(opponent, metric, "opponent")
        limit = other + (1.0 if lower else -1.0) * criterion.slack * abs(other)
        origin = f"opponent {other:.4g}"
    passed = figure <= limit if lower else figure >= limit
    sign = "<=" if lower else ">="
    return Check(f"{metric} {sign} {limit:.4g} ({origin})", metric, figure, other, limit, passed)


def _figure(figures: Mapping[str, float], metric: str, owner: str) -> float:
    value = figures.get(metric)
    if value is None or not abs(float(value)) < float("inf"):
        raise TimbreflowError(f"the {owner} has no finite figure for {metric}; evaluate it again.")
    return float(value)
