"""The stages in DVC's order, as one parent run: what a Prefect deployment runs.

Each stage is reproduced by DVC, which decides whether it is stale, and DVC runs the stage's flow, so both entrances
(`dvc repro` and this one) give the same flow runs. The children carry the tag `pipeline:<id of this run>`.
"""

import os
import subprocess
import sys

from prefect import flow, runtime
from ruamel.yaml import YAML

from flows import ROOT
from flows.orchestration import PARENT_RUN, entry, plain_task
from timbreflow.errors import TimbreflowError


def _run(*command: str) -> None:
    environment = {**os.environ, PARENT_RUN: str(runtime.flow_run.root_flow_run_id)}
    if subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, check=False).returncode:
        raise TimbreflowError(f"`{' '.join(command)}` failed; see its error above.")


@flow(name="pipeline", flow_run_name="pipeline")
def pipeline() -> None:
    """One task a stage, then one that registers what a skipped stage did not."""
    stages = list(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    for stage in stages:
        plain_task(_run, name=stage)("dvc", "repro", "--single-item", stage)
    plain_task(_run, name="register")("timbreflow.cli", "register")


if __name__ == "__main__":
    entry(pipeline)
