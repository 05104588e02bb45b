"""Run a sharded stage in one process, where a flow would fan out."""

from types import ModuleType
from typing import Any

from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult


def run_all(stage: ModuleType, *sections: Any, layout: Layout) -> StageResult:
    """Plan a stage with its sections of params.yaml, run its shards one after another, and finish it."""
    for shard in stage.plan(*sections, layout=layout):
        stage.run_one(shard, *sections, layout=layout)
    report: StageResult = stage.finish(*sections, layout=layout)
    return report
