"""Where MLflow keeps its runs and models: `MLFLOW_TRACKING_URI`, else a database inside the checkout."""

import os
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from timbreflow.errors import TimbreflowError
from timbreflow.network import ANSWER_SECONDS, bypass_proxy_for_loopback, within, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "timbreflow"
KIND = ("mlflow.experimentKind", "custom_model_development")
"""Has MLflow's page open the experiment on its runs; without it, it opens as a GenAI application's."""
REFUSED = re.compile(r"\berror code 40[13]\b")
WRONG_CREDENTIALS = "wrong credentials: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
DATABASE_TROUBLE = ("sqlite3.", "psycopg2.", "sqlalchemy.exc.")
"""MLflow repeats some errors of its database as text of its own errors."""

MIGRATION_SECONDS = 300
"""Creating the tables of a new database takes MLflow less than this."""
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
KINDS = ("http", "https", "sqlite", *DATABASE_PORTS)
"""Of addresses that MLflow keeps a registry at."""

P = ParamSpec("P")
R = TypeVar("R")


def home_of(root: Path) -> Path:
    """The checkout whose stores and servers are used: itself or, of DVC's copy in .dvc/tmp/exps, its origin."""
    root = Path(root).resolve()
    copies = (place for place in root.parents if place.parts[-3:] == (".dvc", "tmp", "exps"))
    return next((place.parents[2] for place in copies), root)


def tracking_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else sqlite:///<root>/.mlflow/mlflow.db."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_uri(root)


class StoreUnavailable(TimbreflowError):
    """The store, of MLFLOW_TRACKING_URI or of the project, cannot be used."""


def has_store(root: Path) -> bool:
    """Whether there is a store, since looking for a model must not create an empty database."""
    uri = tracking_uri(root)
    return not uri.startswith("sqlite:///") or os.path.isfile(uri.removeprefix("sqlite:///"))


def connect(root: Path) -> "MlflowClient":
    """Point MLflow, and the processes it starts, at the project's store, which is created where it is missing.

    Raises:
        TimbreflowError: the store cannot be created.
        StoreUnavailable: the store of MLFLOW_TRACKING_URI does not answer, or is none.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # It prints the address of each run as it is, with a password that is in it.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    bypass_proxy_for_loopback()
    import mlflow

    given, uri = os.environ.get("MLFLOW_TRACKING_URI"), tracking_uri(root)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if given is None:
        # MLflow writes the address into the environment, where another checkout would take it for the user's choice.
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    if uri != _own_uri(root):
        return _connect_elsewhere(uri)
    from filelock import FileLock

    folder = _database(root).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TimbreflowError(
            f"{folder} cannot be made ({error.strerror}); set MLFLOW_TRACKING_URI to another store."
        ) from error
    # Two processes that create the tables at the same time break each other.
    with FileLock(_database(root).with_suffix(".lock")):
        return _opened(uri)


def _opened(uri: str) -> "MlflowClient":
    """A client after its first request, which creates the tables of a new database."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None and found.name != EXPERIMENT:
        # MLflow accepts any JSON as an experiment without a name.
        raise ValueError("what answers is not MLflow")
    return client


def _connect_elsewhere(uri: str) -> "MlflowClient":
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    # In place of eight tries of two minutes.
    once = {MLFLOW_HTTP_REQUEST_MAX_RETRIES: 0, MLFLOW_HTTP_REQUEST_TIMEOUT: ANSWER_SECONDS}
    try:
        parts = urlsplit(uri)
        kind, port, database = parts.scheme.split("+")[0], parts.port, parts.scheme not in ("http", "https")
        if kind not in KINDS and kind != "databricks" and uri != "databricks":
            raise ValueError(f"an address begins with one of {', '.join(f'{known}://' for known in KINDS)}")
        # MLflow retries for minutes where no database listens, or no file can be.
        if kind in DATABASE_PORTS and parts.hostname:
            socket.create_connection((parts.hostname, port or DATABASE_PORTS[kind]), timeout=ANSWER_SECONDS).close()
        if kind == "sqlite" and (path := parts.path.removeprefix("/")):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            sqlite3.connect(path).close()
        with variables(once):
            return within(MIGRATION_SECONDS if database else ANSWER_SECONDS, lambda: _opened(uri))
    except Exception as error:
        raise StoreUnavailable(
            f"MLFLOW_TRACKING_URI={without_password(uri)} cannot be used ({without_password(_reason(error))}); start "
            "that server, or correct or unset the variable."
        ) from error


@contextmanager
def variables(values: Mapping[Any, Any]) -> Iterator[None]:
    """Set environment variables of MLflow, objects of `mlflow.environment_variables`, for a while."""
    before = {variable: variable.get_raw() for variable in values}
    try:
        for variable, value in values.items():
            variable.set(value)
        yield
    finally:
        for variable, given in before.items():
            variable.unset() if given is None else variable.set(given)


def _reason(error: Exception) -> str:
    """Why a store cannot be used, in a few words; MLflow's own messages repeat whole pages of the answer."""
    text = " ".join(str(error).split())
    if isinstance(error, TimeoutError) or "timed out" in text:
        return f"no answer in {ANSWER_SECONDS} s"
    if REFUSED.search(text):
        return WRONG_CREDENTIALS
    if reason := re.search(
        r"Connection refused|Name or service not known|Failed to resolve|No module named [\w']+", text
    ):
        return reason[0]
    if text.startswith("API request"):
        return "what answers is not MLflow"
    return text[:200].rstrip(".")


def experiment_id(client: "MlflowClient", root: Path) -> str:
    """The project's experiment; in the local store its artifacts lie in <root>/.mlflow/artifacts."""
    from mlflow.exceptions import MlflowException

    local = tracking_uri(root) == _own_uri(root)
    place = (_database(root).parent / "artifacts").as_uri() if local else None
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=place, tags=dict([KIND])))
        except MlflowException:
            # Another process may have been faster.
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    if KIND[0] not in found.tags:
        client.set_experiment_tag(found.experiment_id, *KIND)
    return str(found.experiment_id)


def clear_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn exceptions of MLflow and of its database into one sentence that names the store."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            given = os.environ.get("MLFLOW_TRACKING_URI")
            store = without_password(given) if given else "the project's MLflow store (.mlflow/mlflow.db)"
            # Compared by name, since importing mlflow takes a second.
            families = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
            reason = " ".join(str(error).split())
            if ("sqlalchemy", "SQLAlchemyError") in families or any(words in reason for words in DATABASE_TROUBLE):
                cause = without_password(" ".join(str(getattr(error, "orig", None) or error).split())[:200].rstrip("."))
                raise StoreUnavailable(
                    f"The database of {store} cannot be used ({cause}); stop what else writes to it (`make stop`), or "
                    "move the file away and register the models again with `timbreflow register`."
                ) from error
            if ("mlflow", "MlflowException") in families:
                reason = WRONG_CREDENTIALS if REFUSED.search(reason) else reason
                raise TimbreflowError(
                    f"MLflow at {store} refused: {without_password(reason.rstrip('.'))}; look at it with `make ui`."
                ) from error
            raise

    return wrapped


def _own_uri(root: Path) -> str:
    return f"sqlite:///{_database(root)}"


def _database(root: Path) -> Path:
    return home_of(root) / ".mlflow" / "mlflow.db"
