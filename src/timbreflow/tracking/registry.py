"""MLflow's model registry: register weights, once for the same files, and find the model that a name means."""

import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import DIGESTS, require_measured
from timbreflow.files import read_json
from timbreflow.inference.refining import refiner_beside
from timbreflow.inference.vocoding import identity, vocoder_beside
from timbreflow.models.catalogue import MODEL_FILES, TRANSFER_MODELS, Candidate, KnownModel, is_bundle, known_model
from timbreflow.tracking.connection import (
    StoreUnavailable,
    clear_errors,
    connect,
    experiment_id,
    has_store,
    lineage,
    tracking_uri,
    variables,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Found = TypeVar("Found")

CHALLENGER = "challenger"
CHAMPION = "champion"
BUNDLE = "bundle"
EVALUATION_TAG = "evaluation"
REQUIREMENTS = ("mlflow", "numpy", "pandas", "safetensors", "soundfile", "soxr", "torch")
"""Requirements of the pyfunc; without this list MLflow loads the model in a new process to infer them.

timbreflow itself is not here, since it is on no package index: serve a version where timbreflow is installed, with
--env-manager local."""


@dataclass(frozen=True)
class ResolvedModel:
    """A bundle on disk, and in words where it was found."""

    folder: Path
    description: str


@clear_errors
def register(candidate: Candidate, *, root: Path) -> str:
    """Make a bundle a version of its registered model, with alias `challenger`, unless the registry has these weights.

    A vocoder beside the bundle that has beaten Griffin-Lim, and a refiner that fits it, are stored with it. Returns a
    sentence.

    Raises:
        TimbreflowError: the folder is no bundle or not the one that was evaluated, or MLflow refuses.
    """
    name, folder = candidate.model.registered, candidate.folder
    if not is_bundle(folder):
        raise TimbreflowError(f"{folder} lacks {' or '.join(MODEL_FILES)}; train the model with `dvc repro`.")
    digests = identity(folder, vocoder_beside(folder))
    require_measured(candidate.evaluation, candidate.model.name, digests, str(folder))
    client = connect(root)
    facts = _facts(candidate, root) | digests | dict(candidate.tags)
    found = _version_of(client, name, digests, root)
    if found is None:
        number, state = _create(client, name, folder, facts, root), "registered"
    else:
        number, state = str(found.version), "was registered already"
        _renew(client, found, facts)
    challenger = alias_version(client, name, CHALLENGER)
    if challenger is not None and str(challenger.version) == number:
        return f"{name} version {number} {state}."
    client.set_registered_model_alias(name, CHALLENGER, number)
    return f"{name} version {number} {state} and is the challenger."


def resolve(wanted: str, *, root: Path) -> ResolvedModel:
    """Find the bundle that somebody means.

    That is the name of a transfer model (the registry's champion, else the released model, else the last one trained
    here), `models:/NAME@ALIAS` or `models:/NAME/VERSION`, or the path of a bundle's folder.

    Raises:
        TimbreflowError: nothing is there, with what to do about it.
    """
    if wanted.startswith("models:/"):
        return _from_registry(wanted, root)
    if wanted in {name for model in TRANSFER_MODELS for name in (model.name, model.registered)}:
        return _by_name(known_model(wanted), root)
    folder = Path(wanted).expanduser()
    if is_bundle(folder):
        return ResolvedModel(folder, f"the model in {folder}")
    if folder.exists():
        raise TimbreflowError(f"{folder} is not a model: it lacks {' or '.join(MODEL_FILES)}; name a bundle's folder.")
    names = ", ".join(model.name for model in TRANSFER_MODELS)
    raise TimbreflowError(f"There is no model {wanted!r}; give {names}, a model's folder, or models:/NAME@ALIAS.")


def figures_of(found: "ModelVersion") -> dict[str, Any]:
    """The evaluation that is stored with a version, in the shape of metrics.json; empty where there is none."""
    stored: dict[str, Any] = json.loads(found.tags.get(EVALUATION_TAG, "{}"))
    return stored


def bundle_folder(found: "ModelVersion") -> Path:
    """Local folder of a version's bundle, downloaded where the store is on another machine.

    Raises:
        TimbreflowError: the version's files are gone.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        with _quiet():
            place = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{found.name}/{found.version}"))
    except (MlflowException, OSError) as error:
        # The database holds absolute paths, which are wrong in a checkout that was moved.
        raise TimbreflowError(
            f"Version {found.version} of {found.name} has lost its files ({' '.join(str(error).split()).rstrip('.')}); "
            "register it again with `timbreflow register`."
        ) from error
    for folder in (place / "artifacts" / BUNDLE, place / "artifacts"):
        if is_bundle(folder):
            return folder
    raise TimbreflowError(
        f"Version {found.version} of {found.name} has lost its files below {place}; "
        "register it again with `timbreflow register`."
    )


def alias_version(client: "MlflowClient", registered_name: str, alias: str) -> "ModelVersion | None":
    """The version that an alias points at, or None."""
    return found_or_none(client.get_model_version_by_alias, registered_name, alias)


def found_or_none(look_up: Callable[..., Found], *arguments: str) -> Found | None:
    """What MLflow finds, or None where it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return look_up(*arguments)
    except MlflowException as error:
        # The second one is the answer for a missing alias.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _by_name(model: KnownModel, root: Path) -> ResolvedModel:
    reason = "the registry has no champion"
    try:
        champion = _champion(model, root)
    except StoreUnavailable as error:
        # A transfer needs no registry.
        champion, reason = None, f"the registry was not asked: {str(error).partition(';')[0]}"
    if champion is not None:
        return champion
    released = root / "released" / model.name
    if is_bundle(released):
        return ResolvedModel(released, f"the released {model.name} ({released}); {reason}")
    trained = root / "data" / "models" / model.name
    if is_bundle(trained):
        return ResolvedModel(
            trained, f"the {model.name} last trained here ({trained}); {reason}, and there is no released one"
        )
    raise TimbreflowError(
        f"There is no {model.name} to use: {reason}, and there is nothing in {released} nor in {trained}; "
        "train one with `make run`, or give the folder of a model."
    )


@clear_errors
def _champion(model: KnownModel, root: Path) -> ResolvedModel | None:
    if not has_store(root):
        return None
    found = alias_version(connect(root), model.registered, CHAMPION)
    if found is None:
        return None
    return ResolvedModel(
        bundle_folder(found), f"the champion, version {found.version} of {model.registered} in the registry"
    )


@clear_errors
def _from_registry(uri: str, root: Path) -> ResolvedModel:
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if match is None:
        raise TimbreflowError(f"{uri} is not a model's address; write models:/NAME@ALIAS or models:/NAME/VERSION.")
    name, alias, number = match.groups()
    if not has_store(root):
        raise TimbreflowError(
            f"{uri} cannot be looked up: there is no registry at {tracking_uri(root)}; run `make run`."
        )
    client = connect(root)
    found = alias_version(client, name, alias) if alias else found_or_none(client.get_model_version, name, number)
    if found is None:
        raise TimbreflowError(f"The registry has no {uri}; see what it has with `make ui`.")
    return ResolvedModel(bundle_folder(found), f"version {found.version} of {name} in the registry ({uri})")


def _facts(candidate: Candidate, root: Path) -> dict[str, str]:
    """Tags of a version."""
    evaluation = candidate.evaluation
    figures = json.dumps(evaluation, sort_keys=True, allow_nan=False)
    facts = {EVALUATION_TAG: figures, "system": candidate.model.name} | lineage(root)
    facts |= {name: str(evaluation[name]) for name in DIGESTS if name in evaluation}
    run_file = root / "results" / candidate.model.run_file
    if run_file.is_file():
        facts["run_id"] = str(read_json(run_file).get("run_id", ""))
    return facts


def _version_of(client: "MlflowClient", name: str, digests: Mapping[str, str], root: Path) -> "ModelVersion | None":
    """The newest version with these weights, if its files are still there."""
    versions = client.search_model_versions(f"name='{name}'")
    same = [found for found in versions if all(found.tags.get(key, "") == digest for key, digest in digests.items())]
    newest = max(same, key=lambda found: int(found.version), default=None)
    # A server would have to send the files; they are not checked.
    if newest is None or tracking_uri(root).startswith(("http://", "https://")):
        return newest
    try:
        folder = bundle_folder(newest)
        return newest if identity(folder, vocoder_beside(folder)) == digests else None
    except TimbreflowError:
        return None


def _renew(client: "MlflowClient", found: "ModelVersion", facts: Mapping[str, str]) -> None:
    """Store new figures of the same weights; the other tags, which say where they come from, stay."""
    for key in (EVALUATION_TAG, *DIGESTS):
        if key in facts and found.tags.get(key) != facts[key]:
            client.set_model_version_tag(found.name, str(found.version), key, facts[key])


def _create(client: "MlflowClient", registered: str, folder: Path, facts: Mapping[str, str], root: Path) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    from timbreflow.inference import pyfunc

    experiment = experiment_id(client, root)
    with tempfile.TemporaryDirectory() as temporary, _quiet():
        # Only the bundles' own files: a folder of trained weights may hold more.
        parts = {BUNDLE: folder}
        if facts["vocoder_sha256"]:
            parts["vocoder"] = vocoder_beside(folder)
        if facts["refiner_sha256"]:
            parts["refiner"] = refiner_beside(folder)
        for name, source in parts.items():
            clean = Path(temporary) / name
            clean.mkdir()
            for file in MODEL_FILES:
                shutil.copy(source / file, clean / file)
        mlflow.set_experiment(experiment_id=experiment)
        info = mlflow.pyfunc.log_model(
            name=registered,
            python_model=str(Path(pyfunc.__file__)),
            artifacts={name: str(Path(temporary) / name) for name in parts},
            signature=pyfunc.signature(),
            # Local version labels, as in 2.13.0+cpu, are not on public indexes.
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS],
        )
        try:
            client.create_registered_model(registered)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # After a clone, or with a new store, the run is known by its id alone.
        run_id = facts.get("run_id")
        run = found_or_none(client.get_run, run_id) if run_id else None
        made = client.create_model_version(
            registered,
            source=info.model_uri,
            model_id=info.model_id,
            run_id=str(run.info.run_id) if run else None,
            tags=dict(facts),
        )
    return str(made.version)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide MLflow's progress bar and its advice on type hints and input examples, which does not apply here."""
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR

    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.models.model", "mlflow.tracking.fluent")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with variables({MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR: False}), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
