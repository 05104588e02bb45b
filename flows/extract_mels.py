"""Turn the clips into memory-mapped log-mels."""

from prefect import flow

from flows.orchestration import entry, load, run_shards
from timbreflow.stages import extract_mels as stage


@flow(name="extract_mels", flow_run_name="extract_mels")
def extract_mels() -> None:
    """One mapped task a shard."""
    params = load()
    run_shards(stage, params.extract_mels, params.audio)


if __name__ == "__main__":
    entry(extract_mels, sharded=True)
