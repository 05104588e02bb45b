"""MLflow's model registry: versions that are made once for the same weights, and finding the model that is wanted."""

import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import require_measured
from timbreflow.files import read_json
from timbreflow.inference.vocoding import identity, vocoder_beside
from timbreflow.models.catalogue import (
    GATED,
    MODEL_FILES,
    TRANSFER_MODELS,
    Candidate,
    KnownModel,
    is_bundle,
    known_model,
)
from timbreflow.tracking.connection import (
    StoreUnavailable,
    clear_errors,
    connect,
    experiment_id,
    has_store,
    lineage,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"
CHAMPION = "champion"
BUNDLE = "bundle"
EVALUATION_TAG = "evaluation"
REQUIREMENTS = ("mlflow", "numpy", "pandas", "safetensors", "scipy", "soundfile", "soxr", "torch")
"""What the pyfunc needs, written down by us: otherwise MLflow loads the model in a new process to find out.

timbreflow itself is on no index, so that naming it would promise an environment that cannot be made: a version is
served where timbreflow is installed, with --env-manager local."""


@dataclass(frozen=True)
class Registration:
    """What became of one model.

    Args:
        registered: name in the registry.
        version: its number.
        created: False where the registry had these weights already.
        sentence: the same for people.
    """

    registered: str
    version: str
    created: bool
    sentence: str


@dataclass(frozen=True)
class ResolvedModel:
    """A bundle on disk, and in words where it was found."""

    folder: Path
    description: str


@clear_errors
def register_bundle(
    name: str, folder: Path, evaluation: Mapping[str, Any], *, root: Path, tags: Mapping[str, str] | None = None
) -> Registration:
    """Make a bundle a version of a registered model, with alias `challenger`, unless the registry has these weights.

    Args:
        name: "vqvae", "glow" or their registered names.
        folder: the bundle: weights.safetensors and config.json; a vocoder beside it that has beaten Griffin-Lim goes
            with it.
        evaluation: {"metric_digest", "test_digest", "weights": {system: hashes}, set: {system: {metric: figure}}}, as
            in metrics.json; what the gate will compare.
        root: the checkout.
        tags: further facts, such as data_digest.

    Raises:
        TimbreflowError: the folder is no bundle or not the one that was evaluated, or MLflow refuses.
    """
    model = known_model(name, GATED)
    folder = Path(folder)
    if not is_bundle(folder):
        raise TimbreflowError(f"{folder} lacks {' or '.join(MODEL_FILES)}; train the model with `dvc repro`.")
    digests = identity(folder, vocoder_beside(folder))
    require_measured(evaluation, model.name, digests, str(folder))
    client = connect(root)
    facts = _facts(model, evaluation, root) | digests | dict(tags or {})
    found = _version_of(client, model.registered, digests)
    if found is None or not _has_files(client, found, digests, root):
        number, created = _create(client, model, folder, facts, root), True
    else:
        number, created = str(found.version), False
        _renew(client, model.registered, found, facts)
    moved = _alias_version(client, model.registered, CHALLENGER) != number
    if moved:
        client.set_registered_model_alias(model.registered, CHALLENGER, number)
    state = "registered" if created else "was registered already"
    sentence = f"{model.registered} version {number} {state}"
    return Registration(model.registered, number, created, sentence + (" and is the challenger." if moved else "."))


def register_candidate(candidate: Candidate, *, root: Path) -> str:
    """Register one candidate and say what was done: the callback of stage register_models."""
    return register_bundle(
        candidate.model.name, candidate.folder, candidate.evaluation, root=root, tags=candidate.tags
    ).sentence


def resolve(wanted: str, *, root: Path) -> ResolvedModel:
    """Find the bundle that somebody means.

    Args:
        wanted: name of a transfer model (the registry's champion, else the released model, else the last one trained
            here); `models:/NAME@ALIAS` or `models:/NAME/VERSION`; or the path of a bundle's folder.
        root: the checkout.

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
    """The evaluation that was stored with a version, in the shape of metrics.json; empty where there is none."""
    stored: dict[str, Any] = json.loads(found.tags.get(EVALUATION_TAG, "{}"))
    return stored


def bundle_folder(client: "MlflowClient", found: "ModelVersion") -> Path:
    """Local folder of a version's bundle; downloaded where the store is not on this machine.

    Raises:
        TimbreflowError: the version's files are gone.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    del client
    try:
        # A progress bar for two files is noise.
        with _quiet():
            place = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{found.name}/{found.version}"))
    except (MlflowException, OSError) as error:
        # A checkout that was moved: the database holds absolute paths.
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
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(registered_name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _by_name(model: KnownModel, root: Path) -> ResolvedModel:
    reason = "the registry has no champion"
    try:
        champion = _champion(model, root)
    except StoreUnavailable as error:
        # Nobody who only wants to hear a transfer needs a registry.
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
    client = connect(root)
    found = alias_version(client, model.registered, CHAMPION)
    if found is None:
        return None
    return ResolvedModel(
        bundle_folder(client, found), f"the champion, version {found.version} of {model.registered} in the registry"
    )


@clear_errors
def _from_registry(uri: str, root: Path) -> ResolvedModel:
    from mlflow.exceptions import MlflowException

    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if match is None:
        raise TimbreflowError(f"{uri} is not a model's address; write models:/NAME@ALIAS or models:/NAME/VERSION.")
    name, alias, number = match.groups()
    if not has_store(root):
        raise TimbreflowError(
            f"{uri} cannot be looked up: there is no registry at {tracking_uri(root)}; run `make run`."
        )
    client = connect(root)
    try:
        found = alias_version(client, name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        found = None
    if found is None:
        raise TimbreflowError(f"The registry has no {uri}; see what it has with `make ui`.")
    return ResolvedModel(bundle_folder(client, found), f"version {found.version} of {name} in the registry ({uri})")


def _facts(model: KnownModel, evaluation: Mapping[str, Any], root: Path) -> dict[str, str]:
    facts = {
        EVALUATION_TAG: json.dumps(evaluation, sort_keys=True, allow_nan=False),
        "system": model.name,
    } | lineage(root)
    for name in ("metric_digest", "test_digest"):
        if name in evaluation:
            facts[name] = str(evaluation[name])
    run_file = root / "results" / model.run_file
    if run_file.is_file():
        facts["run_id"] = str(read_json(run_file).get("run_id", ""))
    return facts


def _version_of(client: "MlflowClient", registered_name: str, digests: Mapping[str, str]) -> "ModelVersion | None":
    versions = client.search_model_versions(f"name='{registered_name}'")
    same = [found for found in versions if all(found.tags.get(key, "") == digest for key, digest in digests.items())]
    return max(same, key=lambda found: int(found.version), default=None)


def _has_files(client: "MlflowClient", found: "ModelVersion", digests: Mapping[str, str], root: Path) -> bool:
    """Whether a version's files are those; a server's are taken for granted, since looking means downloading."""
    if tracking_uri(root).startswith(("http://", "https://")):
        return True
    try:
        folder = bundle_folder(client, found)
        return identity(folder, vocoder_beside(folder)) == digests
    except TimbreflowError:
        return False


def _alias_version(client: "MlflowClient", registered_name: str, alias: str) -> str | None:
    found = alias_version(client, registered_name, alias)
    return None if found is None else str(found.version)


def _renew(client: "MlflowClient", registered_name: str, found: "ModelVersion", facts: Mapping[str, str]) -> None:
    """The same weights may have been evaluated anew; where they come from stays as it was."""
    for key in (EVALUATION_TAG, "metric_digest", "test_digest"):
        if key in facts and found.tags.get(key) != facts[key]:
            client.set_model_version_tag(registered_name, str(found.version), key, facts[key])


def _create(client: "MlflowClient", model: KnownModel, folder: Path, facts: Mapping[str, str], root: Path) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    from timbreflow.inference import pyfunc

    experiment = experiment_id(client, root)
    with tempfile.TemporaryDirectory() as temporary, _quiet():
        # Only the bundles' own files: a folder of trained weights may hold more.
        parts = {BUNDLE: folder}
        if facts["vocoder_sha256"]:
            parts["vocoder"] = vocoder_beside(folder)
        for name, source in parts.items():
            clean = Path(temporary) / name
            clean.mkdir()
            for file in MODEL_FILES:
                shutil.copy(source / file, clean / file)
        mlflow.set_experiment(experiment_id=experiment)
        info = mlflow.pyfunc.log_model(
            name=model.registered,
            python_model=str(Path(pyfunc.__file__)),
            artifacts={name: str(Path(temporary) / name) for name in parts},
            signature=pyfunc.signature(),
            pip_requirements=_requirements(),
        )
        try:
            client.create_registered_model(model.registered)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(
            model.registered,
            source=info.model_uri,
            model_id=info.model_id,
            run_id=_existing_run(client, facts.get("run_id")),
            tags=dict(facts),
        )
    return str(made.version)


def _existing_run(client: "MlflowClient", run_id: str | None) -> str | None:
    """The run, where this store has it: after a clone or with a new store the id is known and the run is not there."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        return str(client.get_run(run_id).info.run_id)
    except MlflowException:
        return None


def _requirements() -> list[str]:
    pinned = []
    for name in REQUIREMENTS:
        try:
            # A build's own suffix, as in 2.13.0+cpu, is on no public index.
            pinned.append(f"{name}=={version(name).split('+')[0]}")
        except PackageNotFoundError:
            pinned.append(name)
    return pinned


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow's advice on type hints and input examples does not fit a model of two binary columns."""
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR

    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.models.model", "mlflow.tracking.fluent")]
    levels = [logger.level for logger in loggers]
    shown = MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.get_raw()
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown is None:
            MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.unset()
        else:
            MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(shown)
