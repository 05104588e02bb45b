"""Turn what was evaluated into the report."""

from prefect import flow

from flows import ROOT
from flows.orchestration import LAYOUT, entry, load, run_tracked
from timbreflow.stages import report as stage
from timbreflow.tracking.sounds import keep_sounds


@flow(name="report", flow_run_name="report")
def report() -> None:
    """One task; a link to the report is its artifact, and page and sounds are kept with an MLflow run."""
    params = load()
    run_tracked(stage, "report", params.evaluate, params.evaluate)
    keep_sounds(LAYOUT.results("evaluate"), LAYOUT.results("report") / "run.json", root=ROOT)


if __name__ == "__main__":
    entry(report)
