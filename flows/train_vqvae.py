"""Train one variant of the VQ-VAE: `python -m flows.train_vqvae base`, or `paper`; `--profile` reports its times."""

from prefect import flow

from flows.orchestration import entry, load, profiled_arguments, run_tracked
from timbreflow.stages import train_vqvae as stage


@flow(name="train_vqvae", flow_run_name="train_vqvae-{variant}")
def train_vqvae(variant: str) -> None:
    """One task, with its curves in MLflow."""
    params = load()
    section = getattr(params.train_vqvae, variant)
    run_tracked(stage, f"train_vqvae/{variant}", section, variant, section, params.audio, params.render_triples)


if __name__ == "__main__":
    entry(train_vqvae, *profiled_arguments(), shared=True)
