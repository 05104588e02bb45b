"""Register the trained models in MLflow as challengers."""

from functools import partial

from prefect import flow

from flows import ROOT
from flows.orchestration import entry, load, run_stage
from timbreflow.stages import register_models as stage
from timbreflow.tracking.registry import register


@flow(name="register_models", flow_run_name="register_models")
def register_models() -> None:
    """One task; a version whose weights are registered already is kept."""
    run_stage(stage, load().register_models, register=partial(register, root=ROOT))


if __name__ == "__main__":
    entry(register_models)
