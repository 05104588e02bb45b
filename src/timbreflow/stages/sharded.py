"""Run a sharded stage in one process: what tests and the command line use where a flow would fan out."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from timbreflow.stages.layout import Layout
from timbreflow.stages.report import StageReport


class ShardedStage(Protocol):
    """A module of `timbreflow.stages` with three parts."""

    plan: Callable[..., Sequence[Any]]
    """`plan(*sections, layout=...)`: which shards there are."""

    run_one: Callable[..., None]
    """`run_one(shard, *sections, layout=...)`: what a worker does; returns at once when the shard is already there."""

    finish: Callable[..., StageReport]
    """`finish(*sections, layout=...)`: manifest, and move into place."""


def run_all(stage_module: ShardedStage, *sections: Any, layout: Layout) -> StageReport:
    """Plan a sharded stage, run its shards one after another, and finish it.

    Args:
        stage_module: such as `timbreflow.stages.render_triples`.
        sections: of params.yaml, as the stage wants them.
        layout: where to read and write.

    Raises:
        TimbreflowError: whatever the stage raises.
    """
    for shard in stage_module.plan(*sections, layout=layout):
        stage_module.run_one(shard, *sections, layout=layout)
    return stage_module.finish(*sections, layout=layout)
