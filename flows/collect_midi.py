"""Read the corpora into note tables."""

from prefect import flow

from flows.orchestration import entry, load, run_shards
from timbreflow.stages import collect_midi as stage


@flow(name="collect_midi", flow_run_name="collect_midi")
def collect_midi() -> None:
    """One mapped task a shard."""
    run_shards(stage, load().collect_midi)


if __name__ == "__main__":
    entry(collect_midi, sharded=True)
