"""Train the refiner behind the transfer models; `--profile` reports its times."""

from prefect import flow

from flows.orchestration import entry, load, profiled_arguments, run_tracked
from timbreflow.stages import train_refiner as stage


@flow(name="train_refiner", flow_run_name="train_refiner")
def train_refiner() -> None:
    """One task, with its curves in MLflow."""
    params = load()
    section = params.train_refiner
    run_tracked(stage, "train_refiner", section, section, params.audio, params.render_triples)


if __name__ == "__main__":
    entry(train_refiner, *profiled_arguments(), shared=True)
