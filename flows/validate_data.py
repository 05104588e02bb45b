"""Check manifest, notes of clips and mels with Great Expectations; a failed expectation fails the stage."""

from prefect import flow

from flows.orchestration import entry, load, run_validation
from timbreflow.stages import validate_data as stage


@flow(name="validate_data", flow_run_name="validate_data")
def validate_data() -> None:
    """One task; its page is linked."""
    params = load()
    run_validation(stage, params.validate_data, params.render_triples)


if __name__ == "__main__":
    entry(validate_data)
