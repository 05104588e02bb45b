"""What a stage gives back to whoever ran it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

MetricLogger = Callable[[int, Mapping[str, float]], None]
"""Called with (step, values) while a stage runs; flows send it to MLflow and to Prefect's progress."""


@runtime_checkable
class Resumable(Protocol):
    """A MetricLogger that goes on in the record of an earlier process."""

    def resume(self, checkpoints: Path) -> None:
        """Called by a training before its first step, with the folder of its checkpoints."""


def ignore_metrics(step: int, values: Mapping[str, float]) -> None:
    """The MetricLogger of a caller that does not want the curves."""


@dataclass(frozen=True)
class StageResult:
    """Small result of a stage: one sentence, numbers, tables for the Prefect UI, files worth opening.

    `facts` are what was decided on this machine, such as the precision; they become params of MLflow's run.
    """

    summary: str
    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
