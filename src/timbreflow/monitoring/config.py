"""When monitoring alerts: the section `monitor` of params.yaml, which belongs to no stage."""

import math
from dataclasses import dataclass

from timbreflow.errors import TimbreflowError
from timbreflow.schema import require_least

ROLES = ("content", "style", "output")
DRIFTING = ("band_hz", "flatness_db", "pitched_share", "polyphony", "silent_share", "rank")
"""Figures whose distribution is compared with that of the training; every transfer brings level and length to those of
the training, so they have limits only."""
LIMITED = ("seconds", "level_dbfs", "notes_kept")


@dataclass(frozen=True)
class LimitConfig:
    """A bound, and the share of records that may lie below it, 0 to 1."""

    below: float
    share: float


@dataclass(frozen=True)
class MonitorConfig:
    """Section `monitor` of params.yaml.

    Args:
        days: how far back records are looked at.
        min_records: below this nothing is said.
        p_value: probability of a false alert if what is served were drawn from the training; of all checks together.
        distance: of Kolmogorov and Smirnov, 0 to 1, from which a drift matters.
        limits: role -> figure -> limit.

    Raises:
        TimbreflowError: a figure is unknown, or a number means nothing.
    """

    days: int
    min_records: int
    p_value: float
    distance: float
    limits: dict[str, dict[str, LimitConfig]]

    def __post_init__(self) -> None:
        require_least("monitor", self, 1, "days", "min_records")
        shares = {"p_value": self.p_value, "distance": self.distance}
        for role, limits in self.limits.items():
            for figure, limit in limits.items():
                name = f"limits.{role}.{figure}"
                if role not in ROLES or figure not in LIMITED or (figure == "notes_kept" and role != "output"):
                    raise TimbreflowError(
                        f"monitor.{name} is no limit; {', '.join(ROLES)} take seconds and level_dbfs, and output also "
                        "notes_kept."
                    )
                if not math.isfinite(limit.below):
                    raise TimbreflowError(f"monitor.{name}.below is {limit.below}; give a number.")
                shares[f"{name}.share"] = limit.share
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise TimbreflowError(f"monitor.{name} is {value:g}; set it within 0..1.")
