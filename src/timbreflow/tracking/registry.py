"""MLflow's model registry: register weights, once for the same files, and find the model that a name means."""

import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import DIGESTS, Candidate, require_weights
from timbreflow.files import read_json
from timbreflow.inference.refining import refiner_beside
from timbreflow.inference.released import given_folder
from timbreflow.inference.vocoding import identity, vocoder_beside
from timbreflow.models.catalogue import MODEL_FILES, TRANSFER_MODELS, KnownModel, is_bundle, known_model
from timbreflow.tracking.connection import (
    StoreUnavailable,
    clear_errors,
    connect,
    experiment_id,
    has_store,
    tracking_uri,
    variables,
)
from timbreflow.tracking.lineage import EXPERIMENT, dvc_experiment, git, lineage
from timbreflow.tracking.measurements import keep

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Found = TypeVar("Found")

CHALLENGER = "challenger"
CHAMPION = "champion"
BUNDLE = "bundle"
CARD = "README.md"
"""Card of a released model, beside its bundle and among the files of its version."""
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
def register(candidate: Candidate, *, root: Path, check: bool = False) -> str:
    """Make a bundle a version of its registered model, with alias `challenger`, unless the registry has these weights.

    A vocoder beside the bundle that has beaten Griffin-Lim, and a refiner that fits it, are stored with it. Weights
    that are registered become the challenger again, but with `check` no alias changes where nothing was registered,
    and an experiment of DVC never makes a challenger. Returns a sentence.

    Raises:
        TimbreflowError: the folder is no bundle or not the one that was evaluated, or MLflow refuses.
    """
    name, folder = candidate.model.registered, candidate.folder
    if not is_bundle(folder):
        raise TimbreflowError(f"{folder} lacks {' or '.join(MODEL_FILES)}; train the model with `dvc repro`.")
    digests = identity(folder, vocoder_beside(folder))
    require_weights(candidate.measured.weights, digests, str(folder))
    client = connect(root)
    keep(client, candidate.measured, root=root)
    found = _version_of(client, name, digests, root)
    if found is None:
        facts = _facts(candidate, root) | digests | candidate.measured.digests | dict(candidate.tags)
        number, state = _create(client, name, folder, facts, root), "registered"
    else:
        number, state = str(found.version), "was registered already"
        # The other tags, which say where the weights come from, stay.
        renew_digests(client, found, candidate.measured.digests)
    _describe(client, candidate, number, root)
    challenger = alias_version(client, name, CHALLENGER)
    if (challenger is not None and str(challenger.version) == number) or (check and found is not None):
        return f"{name} version {number} {state}."
    if experiment := dvc_experiment():
        return (
            f"{name} version {number} {state}; an experiment makes no challenger: `dvc exp apply {experiment}` and "
            "`timbreflow register` do."
        )
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
    folder = Path(os.path.expanduser(wanted))
    if is_bundle(folder):
        return ResolvedModel(folder, f"the model in {folder}")
    if folder.exists():
        raise TimbreflowError(f"{folder} is not a model: it lacks {' or '.join(MODEL_FILES)}; name a bundle's folder.")
    names = ", ".join(model.name for model in TRANSFER_MODELS)
    raise TimbreflowError(f"There is no model {wanted!r}; give {names}, a model's folder, or models:/NAME@ALIAS.")


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
    released = (given_folder() or root / "released") / model.name
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


def _from_registry(uri: str, root: Path) -> ResolvedModel:
    found = version_at(uri, root=root)
    return ResolvedModel(bundle_folder(found), f"version {found.version} of {found.name} in the registry ({uri})")


@clear_errors
def version_at(uri: str, *, root: Path) -> "ModelVersion":
    """The version at an address, models:/NAME@ALIAS or models:/NAME/VERSION.

    Raises:
        TimbreflowError: that is no address, or nothing is there.
    """
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
    return found


def _facts(candidate: Candidate, root: Path) -> dict[str, str]:
    """Tags that say where a version comes from."""
    facts = {"system": candidate.model.name}
    if candidate.released:
        # This checkout's commit and data did not make it.
        commit = git(root, "log", "-1", "--format=%H", "--", str(candidate.folder / MODEL_FILES[1]))
        return facts | ({"released_commit": commit} if commit else {})
    run_file = root / "results" / candidate.model.run_file
    if run_file.is_file():
        facts["run_id"] = str(read_json(run_file).get("run_id", ""))
    return facts | lineage(root)


def _describe(client: "MlflowClient", candidate: Candidate, number: str, root: Path) -> None:
    """Keep a version's card and write its page: figures with their intervals, links, commands that say more."""
    found = client.get_model_version(candidate.model.registered, number)
    card, model_id = candidate.folder / CARD, model_of(found)
    if card.is_file():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(card, folder)
            client.log_model_artifacts(model_id, folder)
    sets = {name: candidate.measured.figures(name) for name in candidate.measured.sets}
    heads = [f"{name} ({len(candidate.measured.on(name))} clips)" for name in sets]
    lines = ["| metric | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for metric in next(iter(sets.values())):
        cells = [f"{own[metric].value:.4g} ({own[metric].low:.3g} to {own[metric].high:.3g})" for own in sets.values()]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    address = f"models:/{candidate.model.registered}/{number}"
    lines += ["", f"Where it comes from: `timbreflow lineage {address}`."]
    if not candidate.released:
        lines[-1] += f" Made again: `timbreflow reproduce {address}`."
    if name := found.tags.get(EXPERIMENT):
        lines[-1] += f" DVC experiment: `{name}`."
    page = f"#/experiments/{experiment_id(client, root)}/models/{model_id}/artifacts"
    named = f"card `{CARD}`, " if card.is_file() else ""
    lines += ["", f"[Its files]({page}): {named}and what the gate decided in `decisions/`."]
    client.update_model_version(found.name, number, "\n".join(lines))


def model_of(found: "ModelVersion") -> str:
    """Id of the MLflow model that holds a version's files; the database keeps it in the source alone."""
    return str(found.source).removeprefix("models:/")


def renew_digests(client: "MlflowClient", found: "ModelVersion", digests: Mapping[str, str]) -> None:
    """Say by which metric code and on which clips a version was measured last."""
    for key in DIGESTS:
        if found.tags.get(key) != digests[key]:
            client.set_model_version_tag(found.name, str(found.version), key, digests[key])


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


def _create(client: "MlflowClient", registered: str, folder: Path, facts: Mapping[str, str], root: Path) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    from timbreflow.inference import pyfunc

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
        # Not log_model, which would load the model and answer the example, for half a minute.
        logged, place = client.create_logged_model(experiment_id(client, root), name=registered), f"{temporary}/model"
        mlflow.pyfunc.save_model(
            place,
            mlflow_model=Model(artifact_path=logged.artifact_location, model_id=logged.model_id),
            python_model=str(Path(pyfunc.__file__)),
            artifacts={name: str(Path(temporary) / name) for name in parts},
            signature=pyfunc.signature(),
            input_example=pyfunc.example(),
            # Local version labels, as in 2.13.0+cpu, are not on public indexes.
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS],
        )
        client.log_model_artifacts(logged.model_id, place)
        client.finalize_logged_model(logged.model_id, "READY")
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
            source=f"models:/{logged.model_id}",
            model_id=logged.model_id,
            run_id=str(run.info.run_id) if run else None,
            tags=dict(facts),
        )
    return str(made.version)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide MLflow's progress bar and its advice on type hints, which does not apply here."""
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
