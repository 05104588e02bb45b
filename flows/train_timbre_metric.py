"""Train the triplet network that measures timbre; its weights are frozen before any model is compared."""

from prefect import flow

from flows.orchestration import entry, load, run_tracked
from timbreflow.stages import train_timbre_metric as stage


@flow(name="train_timbre_metric", flow_run_name="train_timbre_metric")
def train_timbre_metric() -> None:
    """One task, with its curves in MLflow."""
    params = load()
    section = params.train_timbre_metric
    run_tracked(stage, "train_timbre_metric", section, section, params.audio)


if __name__ == "__main__":
    entry(train_timbre_metric)
