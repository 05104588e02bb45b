"""Train the Glow whose couplings are conditioned on content and style; `--profile` tells where the time goes."""

from prefect import flow

from flows.orchestration import entry, load, profiled_arguments, run_tracked
from timbreflow.stages import train_glow as stage


@flow(name="train_glow", flow_run_name="train_glow")
def train_glow() -> None:
    """One task, with its curves in MLflow."""
    params, layout = load()
    section = params.train_glow
    inputs = (section, params.audio, params.render_triples)
    run_tracked(stage, "train_glow", section, *inputs, layout=layout, steps=section.fit.steps)


if __name__ == "__main__":
    entry(train_glow, *profiled_arguments(), shared=True)
