"""Train the Glow whose couplings are conditioned on content and style; `--profile` reports its times."""

from prefect import flow

from flows.orchestration import entry, load, profiled_arguments, run_tracked
from timbreflow.stages import train_glow as stage


@flow(name="train_glow", flow_run_name="train_glow")
def train_glow() -> None:
    """One task, with its curves in MLflow."""
    params = load()
    section = params.train_glow
    run_tracked(stage, "train_glow", section, section, params.audio, params.render_triples)


if __name__ == "__main__":
    entry(train_glow, *profiled_arguments(), shared=True)
