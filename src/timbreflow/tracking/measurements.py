"""Figures of models, clip by clip, kept as MLflow runs, so that no model is measured twice on the same clips."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from timbreflow.evaluation.gate import Measured
from timbreflow.tracking.connection import experiment_id, variables
from timbreflow.tracking.runs import open_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

CLIPS = "clips.csv"
KEY = "measurement"
"""Tag that finds the run of a measurement."""


def find(
    client: "MlflowClient", system: str, weights: Mapping[str, str], digests: Mapping[str, str], *, root: Path
) -> Measured | None:
    """The figures of these weights on these clips by this metric code, or None where none are kept."""
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
    from mlflow.exceptions import MlflowException

    wanted = f"tags.{KEY} = '{_key(system, weights, digests)}' and attributes.status = 'FINISHED'"
    for run in client.search_runs([experiment_id(client, root)], wanted, max_results=1):
        try:
            with tempfile.TemporaryDirectory() as folder, variables({MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR: False}):
                place = client.download_artifacts(run.info.run_id, CLIPS, folder)
                clips = pd.read_csv(place, dtype={"set": str, "triple_id": str}, float_precision="round_trip")
        except (MlflowException, OSError):
            # Its files are gone: it is measured again.
            return None
        return Measured(system, dict(weights), clips=clips, **dict(digests))
    return None


def keep(client: "MlflowClient", measured: Measured, *, root: Path) -> None:
    """Keep figures, unless they are kept already."""
    if find(client, measured.system, measured.weights, measured.digests, root=root) is not None:
        return
    key = _key(measured.system, measured.weights, measured.digests)
    tags = {KEY: key, "system": measured.system, **measured.weights, **measured.digests}
    title = {"mlflow.runName": f"clips of {measured.system}", "mlflow.source.name": "timbreflow"}
    with open_run("measure", {}, root=root, tags=tags | title) as run, tempfile.TemporaryDirectory() as folder:
        for name in measured.sets:
            run.log(0, {f"{name}/{metric}": figure.value for metric, figure in measured.figures(name).items()})
        run.dataset("data/audio", measured.test_digest, context="evaluation")
        measured.clips.to_csv(Path(folder) / CLIPS, index=False)
        run.artifact(Path(folder) / CLIPS)


def _key(system: str, weights: Mapping[str, str], digests: Mapping[str, str]) -> str:
    text = json.dumps([system, dict(weights), dict(digests)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
