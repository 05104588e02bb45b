"""Is what is served still like what was trained on?

Conventions:
    A figure's distribution over the records is compared with that over clips of the training by the test of Kolmogorov
    and Smirnov (`scipy.stats`). With many records it finds differences that do not matter, with few it sees large ones
    where there are none, so an alert needs both: a distance (largest gap between the two cumulative distributions) of
    at least that of params.yaml, and a p-value below `p_value` over the number of such tests (Bonferroni).

    Some figures are strange in one direction alone (`ALTERNATIVES`): music with fewer notes at a time, fewer rests or a
    greater likelihood than the training's average is well inside of what was trained on.

    The rank of a flow's likelihood is uniform among styles of the training.

    Limits say which share of the records may be too quiet, too short, or have lost their notes.

evidently 0.7 makes the same test for a reference of up to 1,000 clips, and would bring 26 packages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from timbreflow.monitoring.config import DRIFTING, LimitConfig, MonitorConfig
from timbreflow.monitoring.record_table import Records
from timbreflow.monitoring.reference import Reference

DRIFT_ROLES = ("content", "style")
"""What people give. The output is made of these by a model, so it has limits only."""
ALTERNATIVES = {"pitched_share": "greater", "polyphony": "less", "silent_share": "less", "rank": "greater"}
"""In scipy's terms: "less" looks for values above the training's, whose cumulative distribution lies below."""
LABELS = {
    "band_hz": "band",
    "flatness_db": "flatness",
    "pitched_share": "share with notes",
    "polyphony": "polyphony",
    "silent_share": "silence",
    "rank": "likelihood",
    "seconds": "length",
    "level_dbfs": "level",
    "notes_kept": "notes kept",
}
UNITS = {"band_hz": "Hz", "flatness_db": "dB", "seconds": "s", "level_dbfs": "dBFS"}

State = Literal["ok", "ALERT", "too few"]


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        role: content, style or output.
        figure: its name in the records.
        kind: drift or limit.
        n: records that have the figure.
        value: distance, or share of records beyond the limit; NaN where there are too few.
        bound: value from which it alerts (drift), or beyond which (limit).
        p: p-value of a drift; None of a limit.
        median: of the records.
        expected: median of the training, or the limit.
        state: ok, ALERT or too few.
    """

    role: str
    figure: str
    kind: Literal["drift", "limit"]
    n: int
    value: float
    bound: float
    p: float | None
    median: float
    expected: float
    state: State

    @property
    def label(self) -> str:
        """In words, such as "style: band"."""
        return f"{self.role}: {LABELS[self.figure]}"

    @property
    def sentence(self) -> str:
        """What was found, for a person."""
        unit = f" {UNITS[self.figure]}" if self.figure in UNITS else ""
        if self.state == "too few":
            return f"{self.label}: too few records have it ({self.n})"
        if self.kind == "limit":
            return (
                f"{self.label}: {self.value:.1%} of records below {self.expected:g}{unit}, at most {self.bound:.0%} "
                "may be"
            )
        return (
            f"{self.label}: distance {self.value:.2f} (alert from {self.bound:.2f}), p {self.p:.2g}; median "
            f"{self.median:.4g}{unit}, in training {self.expected:.4g}{unit}"
        )


@dataclass(frozen=True)
class Report:
    """All checks of some days.

    Attributes:
        checks: drifts, then limits.
        records: what was looked at.
        min_records: how many it takes.
    """

    checks: tuple[Check, ...]
    records: Records
    min_records: int

    @property
    def alerts(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.state == "ALERT")

    @property
    def enough(self) -> bool:
        """Whether there are enough records to say anything."""
        return len(self.records) >= self.min_records

    @property
    def summary(self) -> str:
        """One sentence."""
        n, days = len(self.records), self.records.days
        lost = f" {self.records.broken} broken lines were left out." if self.records.broken else ""
        if not self.enough:
            return f"{n} transfers in {days} days are too few to say anything; it takes {self.min_records}.{lost}"
        names = ", ".join(check.label for check in self.alerts)
        verdict = f"ALERT: {names}" if names else "nothing unlike the training"
        return f"{n} transfers in {days} days: {verdict}.{lost}"


def examine(records: Records, reference: Reference, config: MonitorConfig) -> Report:
    """Hold records against the training and the limits."""
    places = [(role, figure) for role in DRIFT_ROLES for figure in DRIFTING]
    drifts = [_drift(role, figure, records, reference, config, n_tests=len(places)) for role, figure in places]
    limits = [
        _limit(role, figure, records, limit, config.min_records)
        for role, figures in config.limits.items()
        for figure, limit in figures.items()
    ]
    return Report((*drifts, *limits), records, config.min_records)


def expected_values(figure: str, reference: Reference) -> Sequence[float]:
    """[n] values of the training, rising."""
    return np.linspace(0, 1, 101).tolist() if figure == "rank" else reference.figures[figure]


def _drift(
    role: str, figure: str, records: Records, reference: Reference, config: MonitorConfig, *, n_tests: int
) -> Check:
    found, expected = records.column(f"{role}.{figure}"), expected_values(figure, reference)
    bound, alternative = config.distance, ALTERNATIVES.get(figure, "two-sided")
    if len(found) < config.min_records:
        return _too_few(role, figure, "drift", len(found), bound)
    if figure == "rank":
        test = stats.ks_1samp(found, stats.uniform.cdf, alternative=alternative)
    else:
        test = stats.ks_2samp(found, expected, alternative=alternative)
    distance, p = float(test.statistic), float(test.pvalue)
    drifted = distance >= bound and p <= config.p_value / n_tests
    state: State = "ALERT" if drifted else "ok"
    return Check(
        role, figure, "drift", len(found), distance, bound, p, float(found.median()), float(np.median(expected)), state
    )


def _limit(role: str, figure: str, records: Records, limit: LimitConfig, fewest: int) -> Check:
    found = notes_kept(records) if figure == "notes_kept" else records.column(f"{role}.{figure}")
    # A sound that is silent or not finite has no level, and is beyond any limit.
    n = len(records) if figure == "level_dbfs" else len(found)
    if n < fewest:
        return _too_few(role, figure, "limit", n, limit.share)
    share = (int((found < limit.below).sum()) + n - len(found)) / n
    state: State = "ALERT" if share > limit.share else "ok"
    return Check(role, figure, "limit", n, share, limit.share, None, float(found.median()), limit.below, state)


def notes_kept(records: Records) -> pd.Series:
    """[n] notes of the output over those of the content, each summed over time, where the content has any."""
    table = records.table
    if "content.polyphony" not in table:
        return pd.Series([], dtype=float)
    sums = [
        table[f"{role}.polyphony"].astype(float) * table[f"{role}.pitched_share"].astype(float)
        for role in ("output", "content")
    ]
    return (sums[0].fillna(0.0) / sums[1])[sums[1] > 0]


def _too_few(role: str, figure: str, kind: Literal["drift", "limit"], n: int, bound: float) -> Check:
    return Check(role, figure, kind, n, float("nan"), bound, None, float("nan"), float("nan"), "too few")
