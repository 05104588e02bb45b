"""Settings of the gate: section `register_models` of params.yaml."""

from dataclasses import dataclass
from typing import Literal

from timbreflow.errors import TimbreflowError


@dataclass(frozen=True)
class CriterionConfig:
    """What one metric must fulfil.

    Args:
        better: whether lower or higher values are better.
        slack: share of the opponent's value by which the challenger may be worse; negative: must be better by that.
        limit: worst value that ever passes.
    """

    better: Literal["lower", "higher"]
    slack: float
    limit: float


@dataclass(frozen=True)
class GateConfig:
    """The test set whose clips decide, how many it must have, and the criterion of each metric, by its name."""

    set: str
    min_triples: int
    criteria: dict[str, CriterionConfig]

    def __post_init__(self) -> None:
        """Refuse a gate that lets everything through, or that cannot be applied."""
        if not self.criteria:
            raise TimbreflowError("the gate has no criteria; name at least one below register_models.gate.")
        try:
            from timbreflow.evaluation.gate import OWN_METRICS
        except ModuleNotFoundError:  # a machine that only trains may lack what measures
            return
        for name in self.criteria:
            if name not in OWN_METRICS:
                raise TimbreflowError(
                    f"register_models.gate.criteria: {name} is not measured clip by clip on one model; choose among "
                    f"{', '.join(OWN_METRICS)}."
                )


@dataclass(frozen=True)
class RegisterConfig:
    """Section `register_models` of params.yaml: what promotion asks for."""

    gate: GateConfig
