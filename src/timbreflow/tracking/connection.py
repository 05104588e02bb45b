"""Where MLflow keeps its runs and models: `MLFLOW_TRACKING_URI`, else a database inside the checkout."""

import fcntl
import hashlib
import json
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
NOT_CODE = (":(exclude)dvc.lock", ":(exclude)results")
"""What a run itself changes in the checkout while it goes on."""
DATABASE_TROUBLE = ("sqlite3.", "psycopg2.", "sqlalchemy.exc.")
"""MLflow passes on some errors of its database as the text of its own."""

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
    if uri != _own_uri(root):
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    # The first client and its first question make the tables; two processes that do so at once break each other.
    with open(_database(root).with_suffix(".lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.get_experiment_by_name(EXPERIMENT)
        return client


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
    """Tags that tell from which code and data something was made; facts that are not to be had are left out.

    git_commit, git_dirty ("true" where tracked files differ from it) and dvc_lock (`lock_digest`).
    """
    tags = {}
    commit = git_commit(root)
    if commit:
        tags["git_commit"] = commit
        # Files that git does not know are no part of the commit; the figures and the lock are what a run writes.
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *NOT_CODE)
        if changed is not None:
            tags["git_dirty"] = "true" if changed else "false"
    digest = lock_digest(root / "dvc.lock")
    if digest:
        tags["dvc_lock"] = digest
    return tags


def lock_digest(lock: Path) -> str | None:
    """md5 of what dvc.lock says of the trainings and the evaluation, or None where it says nothing of them.

    The file itself cannot be named: DVC writes the entry of a stage only after the stage, and so after its run and its
    registration were tagged. The entries of the stages before are final by then, and a committed dvc.lock gives the
    same digest:

        stages = {name: entry for name, entry in yaml["stages"].items()
                  if name == "evaluate" or name.startswith("train_")}
        md5(json.dumps(stages, sort_keys=True, separators=(",", ":")))
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8"))
        stages = {
            name: entry
            for name, entry in content["stages"].items()
            if name == "evaluate" or str(name).startswith("train_")
        }
    except (OSError, UnicodeDecodeError, YAMLError, KeyError, TypeError, AttributeError):
        return None
    if not stages:
        return None
    text = json.dumps(stages, sort_keys=True, separators=(",", ":"))
    # md5, because that is what DVC itself calls things by; it protects nothing.
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def git_commit(root: Path) -> str | None:
    """Hash of the checked-out commit, or None outside git."""
    return _git(root, "rev-parse", "HEAD")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def clear_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn exceptions of MLflow, and of the database below it, into one sentence that names the store."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            store = os.environ.get("MLFLOW_TRACKING_URI") or "the project's MLflow store (.mlflow/mlflow.db)"
            # By name: importing mlflow only to name its exceptions would cost a second where it is not needed.
            families = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
            reason = " ".join(str(error).split())
            if ("sqlalchemy", "SQLAlchemyError") in families or any(words in reason for words in DATABASE_TROUBLE):
                cause = " ".join(str(getattr(error, "orig", None) or error).split())[:200].rstrip(".")
                raise TimbreflowError(
                    f"The database of {store} cannot be used ({cause}); stop what else writes to it (`make stop`), or "
                    "move the file away and register the models again with `timbreflow register --check`."
                ) from error
            if ("mlflow", "MlflowException") in families:
                raise TimbreflowError(
                    f"MLflow at {store} refused: {reason.rstrip('.')}; look at it with `make ui`."
                ) from error
            raise

    return wrapped


def _own_uri(root: Path) -> str:
    return f"sqlite:///{_database(root)}"


def _database(root: Path) -> Path:
    return Path(root).resolve() / ".mlflow" / "mlflow.db"
