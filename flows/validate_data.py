"""Check notes, manifest and mels with Great Expectations; a failed expectation fails the stage."""

from prefect import flow

from flows.orchestration import entry, load, run_stage
from timbreflow.stages import validate_data as stage


@flow(name="validate_data", flow_run_name="validate_data")
def validate_data() -> None:
    """One task; its Data Docs are linked."""
    params = load()
    run_stage(stage, params.validate_data, params.render_triples)


if __name__ == "__main__":
    entry(validate_data)
