"""The stages in DVC's order, as one parent run: what a Prefect deployment runs.

Each stage is reproduced by DVC, which decides whether it is stale, and DVC runs the stage's flow, so both entrances
(`dvc repro` and this one) give the same flow runs. Here they are the children of the stages' tasks, and end with this
process, however it ends.
"""

import os
import subprocess
import sys
from enum import StrEnum
from typing import Any

from prefect import flow, get_run_logger, runtime
from prefect.states import Completed

from flows import ROOT, lifetime
from flows.orchestration import PARENT_TASK, entry, plain_task
from timbreflow.errors import TimbreflowError
from timbreflow.processes import process_tag


class Stage(StrEnum):
    """DVC's stages, in its order. Prefect's pages offer these, and refuse others."""

    COLLECT_MIDI = "collect_midi"
    RENDER_TRIPLES = "render_triples"
    EXTRACT_MELS = "extract_mels"
    VALIDATE_DATA = "validate_data"
    TRAIN_TIMBRE_METRIC = "train_timbre_metric"
    TRAIN_VQVAE_PAPER = "train_vqvae@paper"
    TRAIN_VQVAE_BASE = "train_vqvae@base"
    TRAIN_GLOW = "train_glow"
    TRAIN_REFINER = "train_refiner"
    TRAIN_VOCODER = "train_vocoder"
    EVALUATE = "evaluate"
    REPORT = "report"
    REGISTER_MODELS = "register_models"


def run_logged(*command: str) -> list[str]:
    """Run a module of Python with its lines in this run's log, and return the lines.

    Raises:
        TimbreflowError: it failed; the sentence ends with its last error.
    """
    environment = {
        **os.environ,
        PARENT_TASK: str(runtime.task_run.id),
        lifetime.PIPELINE_PROCESS: process_tag(),
        "PYTHONUNBUFFERED": "1",
    }
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout or ():
                if line.strip():
                    lines.append(line.rstrip())
                    get_run_logger().info(lines[-1])
        except BaseException:
            lifetime.end_group(process)
            raise
    if process.returncode:
        # A stage's own error before that of DVC, which only says that the stage failed.
        errors = [line for line in lines if line.startswith("error: ")] or [
            line for line in lines if line.startswith("ERROR: ")
        ]
        reason = errors[-1].partition(": ")[2] if errors else f"exit code {process.returncode}"
        raise TimbreflowError(f"`{' '.join(command)}` failed: {reason}")
    return lines


def reproduce(stage: str) -> Any:
    """Bring a stage up to date; where DVC had nothing to run, the task ends as Cached."""
    lines = run_logged("dvc", "repro", "--single-item", stage)
    if any(line.startswith("Running stage") for line in lines):
        return None
    return Completed(name="Cached", message="DVC skipped it: nothing it depends on has changed.", data=None)


def require_remote() -> None:
    """Refuse to begin a run whose results could not be pushed at its end.

    Raises:
        TimbreflowError: DVC has no default remote.
    """
    if not run_logged("dvc", "config", "core.remote"):
        raise TimbreflowError(
            "DVC has no default remote to push to; name one with `.venv/bin/dvc remote add --default store ADDRESS`, "
            "or run without push."
        )


@flow(name="pipeline", flow_run_name="pipeline")
def pipeline(only: Stage | None = None, push: bool = False) -> None:
    """One task a stage, then one that registers what a skipped stage did not.

    Before all, one looks for damage in DVC's cache, and removes it.

    Args:
        only: bring this stage alone up to date, from what the stages before it last made; without it, all of them.
        push: copy the results to DVC's default remote when all stages are done; with `only`, those of that stage.
    """
    lifetime.tag_this_run()
    if push:
        plain_task(require_remote, name="find remote")()
    if only is None:
        plain_task(run_logged, name="check cache")("timbreflow.cli", "cache")
    for stage in [only] if only else Stage:
        state = plain_task(reproduce, name=stage.value)(stage.value, return_state=True)
        if not state.is_completed():
            state.result()
    if not only:
        # As `make run` does: no alias changes where nothing is registered.
        plain_task(run_logged, name="register")("timbreflow.cli", "register", "--check")
    if push:
        plain_task(run_logged, name="push")("dvc", "push", *([only.value] if only else []))


if __name__ == "__main__":
    entry(pipeline)
