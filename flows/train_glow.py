"""Train the Glow whose couplings are conditioned on content and style."""

from prefect import flow

from flows.orchestration import entry, load, publish, run_stage, tracked
from timbreflow.stages import train_glow as stage


@flow(name="train_glow", flow_run_name="train_glow")
def train_glow() -> None:
    """One task, with its curves in MLflow."""
    params, layout = load()
    section = params.train_glow
    with tracked("train_glow", section, layout, steps=section.fit.steps) as log:
        report = run_stage(stage, section, params.audio, layout=layout, log=log)
    publish("train_glow", report)


if __name__ == "__main__":
    entry(train_glow)
