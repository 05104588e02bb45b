"""One MLflow run a stage: parameters under the names of params.yaml, curves in batches, lineage as tags."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json
from timbreflow.network import without_password
from timbreflow.processes import is_dead, process_tag
from timbreflow.tracking.connection import EXPERIMENT, clear_errors, connect, experiment_id
from timbreflow.tracking.lineage import lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

FLUSH_SECONDS = 5.0
"""Writing one value costs some 27 ms, writing a batch hardly more: values wait this long."""
FLUSH_VALUES = 900
"""MLflow takes at most 1,000 values in one batch."""
PARAMS_AT_ONCE = 100
LONGEST_PARAM = 6000
PROCESS = "process"
"""Tag by which a later start finds out whether the process of a run still exists."""
RUN_FILE = "mlflow_run.json"
"""Lies beside the checkpoints of a training."""

logger = logging.getLogger(__name__)


def flatten(params: object, prefix: str = "") -> dict[str, str]:
    """Nested sections as dotted names and strings: {"model": {"width": 8}} -> {"model.width": "8"}.

    Lists of plain values stay one JSON value; lists of mappings get their position as a name.
    """
    if isinstance(params, Mapping):
        items = [(str(key), value) for key, value in params.items()]
    elif isinstance(params, list | tuple) and any(isinstance(item, Mapping) for item in params):
        items = [(str(position), value) for position, value in enumerate(params)]
    else:
        return {prefix or "value": params if isinstance(params, str) else json.dumps(params)}
    flat: dict[str, str] = {}
    for key, value in items:
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else key))
    return flat


class Run:
    """An open run."""

    def __init__(self, client: "MlflowClient", run_id: str, experiment: str, root: Path) -> None:
        self._client, self._root = client, root
        self.run_id, self.experiment = run_id, experiment
        self._waiting: list[Metric] = []
        self._flushed = time.monotonic()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log values of a step; they reach MLflow within seconds, at the latest when the run ends.

        A store that does not answer (a locked database, a server that restarts) must not end a training: the values
        are sent again at the next call.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, float(value), now, int(step)) for name, value in metrics.items()]
        if len(self._waiting) >= FLUSH_VALUES or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            try:
                self.flush()
            except Exception as error:
                self._flushed = time.monotonic()
                reason = without_password(str(error))
                logger.warning("MLflow did not take %d values (%s); trying again.", len(self._waiting), reason)

    def flush(self) -> None:
        """Send the values that were not sent yet."""
        while self._waiting:
            batch = self._waiting[:FLUSH_VALUES]
            self._client.log_batch(self.run_id, metrics=batch)
            del self._waiting[: len(batch)]
        self._flushed = time.monotonic()

    def artifact(self, path: Path) -> None:
        """Keep a copy of a file with the run."""
        self._client.log_artifact(self.run_id, str(path))

    def dataset(self, paths: str, digest: str, *, context: str = "training") -> None:
        """Say which data the run used.

        Args:
            paths: outputs of DVC, separated by blanks, such as "data/audio data/mels".
            digest: hash of them. MLflow shows its first 36 characters; the tag `data_digest` and the source have it
                whole.
            context: what it was used for, "training" or "evaluation".
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        commit = lineage(self._root).get("git_commit", "")
        source = json.dumps({"paths": paths.split(), "digest": digest, "commit": commit, "pull": f"dvc pull {paths}"})
        dataset = Dataset(name=paths, digest=digest[:36], source_type="dvc", source=source)
        tag = InputTag(key="mlflow.data.context", value=context)
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset=dataset, tags=[tag])])
        self._client.set_tag(self.run_id, "data_digest", digest)

    def describe(self, markdown: str) -> None:
        """Set the description that MLflow's page shows."""
        self._client.set_tag(self.run_id, "mlflow.note.content", markdown)

    @clear_errors
    def resume(self, checkpoints: Path) -> None:
        """Go on in the run that made the checkpoints of a training, where there is one, and remove this one.

        So a training that was killed is one run with one curve. Steps after the last checkpoint are logged twice, with
        the same values.
        """
        from mlflow.exceptions import MlflowException

        note = checkpoints / RUN_FILE
        if note.is_file() and any(place.is_dir() for place in checkpoints.iterdir()):
            try:
                earlier = self._client.get_run(read_json(note)["run_id"])
            except MlflowException as error:
                logger.warning("The run that this training began in is gone (%s); its curve begins here.", error)
            else:
                for key, value in self._client.get_run(self.run_id).data.tags.items():
                    self._client.set_tag(earlier.info.run_id, key, value)
                self._client.update_run(earlier.info.run_id, status="RUNNING")
                self._client.set_terminated(self.run_id, status="KILLED")
                self._client.delete_run(self.run_id)
                self.run_id = earlier.info.run_id
        write_json(note, {"run_id": self.run_id})

    def write_run_json(self, path: Path) -> None:
        """Write {"run_id", "experiment"}: the link from a stage's results to its run."""
        write_json(path, {"run_id": self.run_id, "experiment": EXPERIMENT})

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log settings of the run, or facts that follow from them."""
        from mlflow.entities import Param

        entries = [Param(name, value[:LONGEST_PARAM]) for name, value in params.items()]
        for start in range(0, len(entries), PARAMS_AT_ONCE):
            self._client.log_batch(self.run_id, params=entries[start : start + PARAMS_AT_ONCE])


@contextmanager
def open_run(stage: str, params: object, *, root: Path, tags: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Open an MLflow run for a stage and close it as finished, failed or killed; its `log` is a MetricLogger.

    Parameters are sections of params.yaml, as nested mappings, logged under dotted names.

    Raises:
        TimbreflowError: MLflow cannot be reached.
    """
    run = _start(stage, params, root, tags or {})
    status = "KILLED"
    try:
        yield run
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        try:
            _finish(run, status)
        except TimbreflowError as error:
            # The error that stopped the stage must not be hidden by one of the store.
            if status == "FINISHED":
                raise
            logger.warning("%s", error)


@clear_errors
def _start(stage: str, params: object, root: Path, tags: Mapping[str, str]) -> Run:
    client, origin = connect(root), lineage(root)
    experiment = experiment_id(client, root)
    _end_dead_runs(client, experiment)
    # MLflow's page shows the commit under a name of its own.
    commit = {"mlflow.source.git.commit": origin["git_commit"]} if "git_commit" in origin else {}
    source = {"stage": stage, "mlflow.source.type": "LOCAL", "mlflow.source.name": f"flows.{stage}"}
    name = tags.get("mlflow.runName", stage)
    tags = {**source, **origin, **commit, PROCESS: process_tag(), **tags}
    created = client.create_run(experiment, run_name=name, tags=tags)
    run = Run(client, created.info.run_id, experiment, root)
    run.log_params(flatten(params))
    return run


def _end_dead_runs(client: "MlflowClient", experiment: str) -> None:
    """Mark the runs as killed that a process of this host left open."""
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if is_dead(run.data.tags.get(PROCESS, "")):
            client.set_terminated(run.info.run_id, status="KILLED")


@clear_errors
def _finish(run: Run, status: str) -> None:
    try:
        run.flush()
    finally:
        run._client.set_terminated(run.run_id, status=status)
