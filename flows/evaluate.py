"""Compare every system on the frozen test sets and write the report."""

from prefect import flow

from flows.orchestration import entry, load, publish, run_stage, tracked
from timbreflow.stages import evaluate as stage


@flow(name="evaluate", flow_run_name="evaluate")
def evaluate() -> None:
    """One task; the table and a link to the report are its artifacts."""
    params, layout = load()
    with tracked("evaluate", params.evaluate, layout) as log:
        report = run_stage(stage, params.evaluate, params.audio, layout=layout, log=log)
    publish("evaluate", report)


if __name__ == "__main__":
    entry(evaluate)
