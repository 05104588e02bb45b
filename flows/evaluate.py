"""Compare every system on the test clips."""

from prefect import flow

from flows.orchestration import entry, load, run_tracked
from timbreflow.stages import evaluate as stage


@flow(name="evaluate", flow_run_name="evaluate")
def evaluate() -> None:
    """One task; the tables are its artifacts."""
    params = load()
    run_tracked(stage, "evaluate", params.evaluate, params.evaluate, params.audio)


if __name__ == "__main__":
    entry(evaluate)
