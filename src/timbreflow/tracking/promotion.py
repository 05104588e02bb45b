"""Promotion: a challenger that passes the gate becomes the champion; a rollback brings the previous one back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import (
    Decision,
    Evaluate,
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
from timbreflow.tracking.registry import CHALLENGER, CHAMPION, alias_version, bundle_folder, figures_of, found_or_none

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREVIOUS_TAG = "previous_champion"


@dataclass(frozen=True)
class Promotion:
    """Result of a promotion: the challenger's version of a registered model, the opponent in words, and the checks."""

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
        title = f"{self.registered} version {self.version}"
        verdict = f"{title} {'is now the champion' if self.promoted else 'was not promoted'}."
        return "\n".join([f"{title} against {self.opponent}", *lines, verdict])


@clear_errors
def promote(name: str, gate: GateConfig, *, root: Path, evaluate: Evaluate) -> Promotion:
    """Compare the challenger with the champion, else the released model, else absolute limits.

    A challenger that passes becomes the champion. A bundle is evaluated again where two were not measured by the same
    code on the same clips.

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
    title = f"Version {challenger.version} of {model.registered}"
    folder = bundle_folder(challenger)
    figures: Mapping[str, Any] = figures_of(challenger)
    require_measured(figures, model.name, _identity(folder), title)
    released = root / "released" / model.name
    if champion is not None:
        opponent, against = f"the champion, version {champion.version}", bundle_folder(champion)
    elif is_bundle(released):
        opponent, against = f"the released model ({released})", released
    else:
        opponent, against = "the absolute limits of params.yaml (there is no champion and no released model)", None
    others: Mapping[str, Any] | None = None
    if against is not None:
        others = figures_of(champion) if champion is not None else {}
        weights = _identity(against)
        if weights == _identity(folder):
            opponent, others = f"{opponent}, the same weights", figures
        if not of_these_weights(others, model.name, weights) or not comparable(figures, others):
            opponent, others = f"{opponent}, evaluated again", evaluate(model, against)
        if not comparable(figures, others):
            figures = evaluate(model, folder)
        if not comparable(figures, others):
            raise TimbreflowError(
                f"{title} and {opponent} still differ in metric code or test clips; run `dvc repro evaluate` and try "
                "again."
            )
    limits = None if others is None else row(others, model.name, gate)
    decision = decide(row(figures, model.name, gate), limits, gate)
    if decision.passed:
        # The tag comes first: without it a crash between the two calls would leave a champion that cannot go back.
        client.set_model_version_tag(
            model.registered, str(challenger.version), PREVIOUS_TAG, str(champion.version) if champion else ""
        )
        client.set_registered_model_alias(model.registered, CHAMPION, str(challenger.version))
    return Promotion(model.registered, str(challenger.version), opponent, decision)


@clear_errors
def rollback(name: str, *, root: Path) -> str:
    """Give the alias `champion` back to the version that had it before; returns a sentence.

    Raises:
        TimbreflowError: there is no champion, or none before it.
    """
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
    found = found_or_none(client.get_model_version, model.registered, previous)
    if found is None:
        raise TimbreflowError(
            f"Version {previous} of {model.registered}, the champion before, was deleted; "
            "set the alias champion by hand in the MLflow page (`make ui`)."
        )
    if any(found.tags.get(name) != digest for name, digest in _identity(bundle_folder(found)).items()):
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


def _identity(folder: Path) -> dict[str, str]:
    return identity(folder, vocoder_beside(folder))
