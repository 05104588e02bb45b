"""Train the triplet network that judges timbre; its weights are frozen before any model is compared."""

from prefect import flow

from flows.orchestration import entry, load, publish, run_stage, tracked
from timbreflow.stages import train_timbre_metric as stage


@flow(name="train_timbre_metric", flow_run_name="train_timbre_metric")
def train_timbre_metric() -> None:
    """One task, with its curves in MLflow."""
    params, layout = load()
    section = params.train_timbre_metric
    with tracked("train_timbre_metric", section, layout, steps=section.fit.steps) as log:
        report = run_stage(stage, section, params.audio, layout=layout, log=log)
    publish("train_timbre_metric", report)


if __name__ == "__main__":
    entry(train_timbre_metric)
