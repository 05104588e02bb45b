"""Render content, style and target clips."""

from prefect import flow

from flows.orchestration import entry, load, run_shards
from timbreflow.stages import render_triples as stage


@flow(name="render_triples", flow_run_name="render_triples")
def render_triples() -> None:
    """One mapped task a shard."""
    run_shards(stage, load().render_triples)


if __name__ == "__main__":
    entry(render_triples, sharded=True)
