"""Turn what was evaluated into the report."""

from prefect import flow

from flows.orchestration import entry, load, run_tracked
from timbreflow.stages import report as stage


@flow(name="report", flow_run_name="report")
def report() -> None:
    """One task; a link to the report is its artifact, and the page is kept with an MLflow run."""
    params = load()
    run_tracked(stage, "report", params.evaluate, params.evaluate)


if __name__ == "__main__":
    entry(report)
