"""Where MLflow keeps its runs and models: `MLFLOW_TRACKING_URI`, else a database inside the checkout."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from timbreflow.errors import TimbreflowError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "timbreflow"

P = ParamSpec("P")
R = TypeVar("R")


def tracking_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else sqlite:///<root>/.mlflow/mlflow.db."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_uri(root)


def has_store(root: Path) -> bool:
    """Whether there is anything to ask: looking for a model must not create an empty database."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or _database(root).is_file()


def connect(root: Path) -> "MlflowClient":
    """Point MLflow, and what it starts, at the project's store, which is created where it is missing.

    Raises:
        TimbreflowError: the store cannot be created.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow

    uri = tracking_uri(root)
    if uri == _own_uri(root):
        try:
            _database(root).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TimbreflowError(
                f"{_database(root).parent} cannot be made ({error.strerror}); set MLFLOW_TRACKING_URI to another store."
            ) from error
    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if given is None:
        # MLflow writes the address into the environment, where another checkout would take it for the user's wish.
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: "MlflowClient", root: Path) -> str:
    """The project's experiment; in the local store its artifacts lie in <root>/.mlflow/artifacts."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    local = tracking_uri(root) == _own_uri(root)
    place = (_database(root).parent / "artifacts").as_uri() if local else None
    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=place))
    except MlflowException:
        # Another process was faster.
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return str(found.experiment_id)


def lineage(root: Path) -> dict[str, str]:
    """Tags that tell from which code and data something was made; facts that are not to be had are left out."""
    tags = {}
    commit = git_commit(root)
    if commit:
        tags["git_commit"] = commit
    lock = root / "dvc.lock"
    if lock.is_file():
        # md5, because that is what DVC itself calls a file by; it protects nothing.
        tags["dvc_lock_md5"] = hashlib.md5(lock.read_bytes(), usedforsecurity=False).hexdigest()
    return tags


def git_commit(root: Path) -> str | None:
    """Hash of the checked-out commit, or None outside git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def clear_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn MLflow's exceptions into one sentence that names the store."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            # By name: importing mlflow only to name its exception would cost a second where it is not needed.
            if type(error).__name__ in ("MlflowException", "RestException"):
                store = os.environ.get("MLFLOW_TRACKING_URI") or "the project's MLflow store (.mlflow/mlflow.db)"
                reason = " ".join(str(error).split()).rstrip(".")
                raise TimbreflowError(f"MLflow at {store} refused: {reason}; look at it with `make ui`.") from error
            raise

    return wrapped


def _own_uri(root: Path) -> str:
    return f"sqlite:///{_database(root)}"


def _database(root: Path) -> Path:
    return Path(root).resolve() / ".mlflow" / "mlflow.db"
