"""Promotion: a challenger takes the champion's place when it passes the gate, and can be sent back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import (
    Decision,
    GateConfig,
    comparable,
    decide,
    of_these_weights,
    require_measured,
    row,
)
from timbreflow.inference.vocoding import identity, vocoder_beside
from timbreflow.models.catalogue import GATED, KnownModel, is_bundle, known_model
from timbreflow.tracking.connection import clear_errors, connect, has_store
from timbreflow.tracking.registry import CHALLENGER, CHAMPION, alias_version, bundle_folder, figures_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PREVIOUS_TAG = "previous_champion"

Evaluate = Callable[[KnownModel, Path], Mapping[str, Any]]
"""Evaluates the bundle in a folder on today's test set: metrics in the shape of results/evaluate/metrics.json."""


@dataclass(frozen=True)
class Promotion:
    """How a challenge went.

    Args:
        registered: name in the registry.
        version: the challenger's number.
        opponent: whom it was held against, in words.
        decision: the gate's checks.
    """

    registered: str
    version: str
    opponent: str
    decision: Decision

    @property
    def promoted(self) -> bool:
        """Whether the challenger is the champion now."""
        return self.decision.passed

    def table(self) -> str:
        """All criteria with both figures, for a terminal; failed ones say so."""
        rows = [("criterion", "challenger", "opponent", "")]
        for check in self.decision.checks:
            opponent = "-" if check.opponent is None else f"{check.opponent:.4g}"
            rows.append((check.criterion, f"{check.challenger:.4g}", opponent, "passed" if check.passed else "FAILED"))
        widths = [max(len(line[column]) for line in rows) for column in range(4)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows
        ]
        verdict = (
            f"{self.registered} version {self.version} is now the champion."
            if self.promoted
            else f"{self.registered} version {self.version} was not promoted."
        )
        return "\n".join([f"{self.registered} version {self.version} against {self.opponent}", *lines, verdict])


@dataclass(frozen=True)
class _Opponent:
    description: str
    folder: Path | None
    metrics: Mapping[str, Any]


@clear_errors
def promote(name: str, gate: GateConfig, *, root: Path, evaluate: Evaluate | None = None) -> Promotion:
    """Hold the challenger against the champion, else the released model, else absolute limits.

    A challenger that passes becomes the champion.

    Args:
        name: "vqvae", "glow" or their registered names.
        gate: criteria, from params.yaml.
        root: the checkout.
        evaluate: evaluates a bundle again where two were not measured by the same code on the same clips.

    Returns:
        The checks; `promoted` says whether the alias was moved.

    Raises:
        TimbreflowError: there is no challenger, it is the champion already, its files are not what was evaluated, or
            figures cannot be compared.
    """
    model = known_model(name, GATED)
    client = _client(model, root)
    challenger = alias_version(client, model.registered, CHALLENGER)
    if challenger is None:
        raise TimbreflowError(
            f"{model.registered} has no challenger; register one with `timbreflow register` or `make run`."
        )
    champion = alias_version(client, model.registered, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        raise TimbreflowError(
            f"Version {champion.version} of {model.registered} is the champion already; train another challenger first."
        )
    opponent = _opponent(client, model, champion, root)
    figures, weights = figures_of(challenger), _identity(bundle_folder(client, challenger))
    require_measured(figures, model.name, weights, f"Version {challenger.version} of {model.registered}")
    if opponent.folder is not None and _identity(opponent.folder) == weights:
        opponent = replace(opponent, description=f"{opponent.description}, the same weights", metrics=figures)
    if opponent.folder is None:
        decision = decide(row(figures, model.name, gate), None, gate)
    else:
        if not comparable(figures, opponent.metrics):
            figures, opponent = _measure_again(client, model, challenger, opponent, figures, evaluate)
        decision = decide(row(figures, model.name, gate), row(opponent.metrics, model.name, gate), gate)
    if decision.passed:
        # The note comes first: without it a crash between the two calls would leave a champion that cannot go back.
        client.set_model_version_tag(
            model.registered, str(challenger.version), PREVIOUS_TAG, str(champion.version) if champion else ""
        )
        client.set_registered_model_alias(model.registered, CHAMPION, str(challenger.version))
    return Promotion(model.registered, str(challenger.version), opponent.description, decision)


@clear_errors
def rollback(name: str, *, root: Path) -> str:
    """Give the alias `champion` back to the version that had it before; returns a sentence.

    Raises:
        TimbreflowError: there is no champion, or none before it.
    """
    from mlflow.exceptions import MlflowException

    model = known_model(name, GATED)
    client = _client(model, root)
    champion = alias_version(client, model.registered, CHAMPION)
    if champion is None:
        raise TimbreflowError(f"{model.registered} has no champion to roll back; promote one first.")
    previous = champion.tags.get(PREVIOUS_TAG, "")
    if not previous:
        raise TimbreflowError(
            f"Version {champion.version} of {model.registered} is its first champion: there is none to go back to."
        )
    try:
        found = client.get_model_version(model.registered, previous)
    except MlflowException as error:
        raise TimbreflowError(
            f"Version {previous} of {model.registered}, the champion before, was deleted; "
            "set the alias champion by hand in the MLflow page (`make ui`)."
        ) from error
    if any(found.tags.get(name) != digest for name, digest in _identity(bundle_folder(client, found)).items()):
        raise TimbreflowError(
            f"The files of version {previous} of {model.registered}, the champion before, were changed since they were "
            "registered; promote another version."
        )
    client.set_registered_model_alias(model.registered, CHAMPION, previous)
    return f"{model.registered} version {previous} is the champion again, in place of version {champion.version}."


def _client(model: KnownModel, root: Path) -> "MlflowClient":
    if not has_store(root):
        raise TimbreflowError(f"There is no registry yet that could hold {model.registered}; run `make run` first.")
    return connect(root)


def _opponent(client: "MlflowClient", model: KnownModel, champion: "ModelVersion | None", root: Path) -> _Opponent:
    """Whom to beat; without figures, so that it is measured again, where there are none of these very weights."""
    released = root / "released" / model.name
    if champion is not None:
        folder, figures = bundle_folder(client, champion), figures_of(champion)
        known = of_these_weights(figures, model.name, _identity(folder))
        return _Opponent(f"the champion, version {champion.version}", folder, figures if known else {})
    if is_bundle(released):
        return _Opponent(f"the released model ({released})", released, {})
    return _Opponent("the absolute limits of params.yaml (there is no champion and no released model)", None, {})


def _identity(folder: Path) -> dict[str, str]:
    return identity(folder, vocoder_beside(folder))


def _measure_again(  # noqa: PLR0917
    client: "MlflowClient",
    model: KnownModel,
    challenger: "ModelVersion",
    opponent: _Opponent,
    figures: Mapping[str, Any],
    evaluate: Evaluate | None,
) -> tuple[dict[str, Any], _Opponent]:
    """Evaluate the opponent as of today, and the challenger too where it also was measured by other code or clips."""
    if evaluate is None or opponent.folder is None:
        raise TimbreflowError(
            f"Version {challenger.version} of {model.registered} and {opponent.description} were measured on other "
            "clips or by other metric code; evaluate both again with `dvc repro evaluate` and promote in the project."
        )
    opponent = _Opponent(f"{opponent.description}, evaluated again", opponent.folder, evaluate(model, opponent.folder))
    if not comparable(figures, opponent.metrics):
        figures = evaluate(model, bundle_folder(client, challenger))
    if not comparable(figures, opponent.metrics):
        raise TimbreflowError(
            f"Version {challenger.version} of {model.registered} and {opponent.description} still differ in metric "
            "code or test clips; run `dvc repro evaluate` and try again."
        )
    return dict(figures), opponent
