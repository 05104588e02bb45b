"""Promotion: a challenger that passes the gate becomes the champion; a rollback brings the previous one back."""

import getpass
import json
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import Decision, Evaluate, Measured, decide, measured, require_weights
from timbreflow.evaluation.gate_config import GateConfig
from timbreflow.files import write_text
from timbreflow.inference.vocoding import identity, vocoder_beside
from timbreflow.models.catalogue import GATED, KnownModel, is_bundle, known_model
from timbreflow.tracking.connection import clear_errors, connect, has_store
from timbreflow.tracking.measurements import find, keep
from timbreflow.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    alias_version,
    bundle_folder,
    found_or_none,
    model_of,
    renew_digests,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

OF_PROMOTIONS = ("decision_opponent", "gate")
"""Tags of a decision by the gate; a rollback has none."""
PREVIOUS_TAG = "previous_champion"
DECISIONS = "decisions"
"""Folder of a version's artifacts: one page a decision, with the figures of both sides clip by clip."""


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
        rows = self.decision.rows()
        widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows
        ]
        warning = [self.decision.warning] if self.decision.warning else []
        title = f"{self.registered} version {self.version}"
        verdict = f"{title} {'is now the champion' if self.promoted else 'was not promoted'}."
        return "\n".join([f"{title} against {self.opponent}", *lines, *warning, verdict])


@clear_errors
def promote(name: str, gate: GateConfig, *, root: Path, evaluate: Evaluate) -> Promotion:
    """Compare the challenger with the champion, else the released model, else absolute limits.

    A challenger that passes becomes the champion. Figures are kept (`tracking.measurements`): a bundle is evaluated
    only where it was not measured yet by the same code on the same clips. The decision is kept with the version.

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
    own = _identity(folder)
    require_weights({key: challenger.tags.get(key, "") for key in own}, own, title)
    folders, released = {"challenger": folder}, root / "released" / model.name
    is_released = is_bundle(released) and _identity(released) == own
    if champion is not None:
        folders["champion"], opponent = bundle_folder(champion), f"the champion, version {champion.version}"
        if is_bundle(released) and _identity(released) not in (own, _identity(folders["champion"])):
            folders["released model"] = released
            opponent += f", and no worse than the released model ({released})"
    elif is_released:
        opponent = (
            "the absolute limits of params.yaml: there is no champion, and these are the released weights, which would "
            "be held against themselves"
        )
    elif is_bundle(released):
        folders["released model"], opponent = released, f"the released model ({released}): there is no champion"
    else:
        opponent = "the absolute limits of params.yaml (there is no champion and no released model)"
    digests = {key: challenger.tags.get(key, "") for key in ("metric_digest", "test_digest")}
    sides = _measured(client, model, folders, digests, root=root, evaluate=evaluate)
    renew_digests(client, challenger, sides["challenger"].digests)
    against = next((side for side in ("champion", "released model") if side in sides), "opponent")
    decision = decide(
        sides["challenger"],
        gate,
        opponent=sides.get(against),
        floor=sides.get("released model") if against == "champion" else None,
        name=against,
    )
    result = Promotion(model.registered, str(challenger.version), opponent, decision)
    facts = {
        "decision": "promoted" if result.promoted else "refused",
        "decision_opponent": opponent,
        "decision_reasons": "; ".join(check.criterion for check in decision.failed) or "every criterion was passed",
        "gate": json.dumps(asdict(gate), sort_keys=True),
    }
    rows = decision.rows()
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    _record(client, challenger, facts, [*lines, "", decision.warning], sides)
    if result.promoted:
        # The tag comes first: without it a crash between the two calls would leave a champion that cannot go back.
        client.set_model_version_tag(
            model.registered, str(challenger.version), PREVIOUS_TAG, str(champion.version) if champion else ""
        )
        client.set_registered_model_alias(model.registered, CHAMPION, str(challenger.version))
    return result


def _measured(
    client: "MlflowClient",
    model: KnownModel,
    folders: Mapping[str, Path],
    digests: Mapping[str, str],
    *,
    root: Path,
    evaluate: Evaluate,
    again: bool = False,
) -> dict[str, Measured]:
    """The figures of all sides by the same code on the same clips: kept ones where there are some, else new ones."""
    found = {}
    for side, folder in folders.items():
        weights = _identity(folder)
        figures = find(client, model.name, weights, digests, root=root)
        if figures is None:
            figures = measured(*evaluate(model, folder), model.name)
            require_weights(figures.weights, weights, str(folder))
            keep(client, figures, root=root)
        if figures.digests != digests:
            if again:
                raise TimbreflowError(
                    f"metric code or test clips changed while {folder} was measured; run `dvc repro evaluate` and try "
                    "again."
                )
            # What was kept is of older code or other clips: all are measured as of today.
            return _measured(client, model, folders, figures.digests, root=root, evaluate=evaluate, again=True)
        found[side] = figures
    return found


def _record(
    client: "MlflowClient",
    version: "ModelVersion",
    facts: Mapping[str, str],
    page: list[str],
    sides: Mapping[str, Measured],
) -> None:
    """Keep a decision with the version: the last one as tags, each as a page among its artifacts."""
    for key in OF_PROMOTIONS:
        if key in version.tags and key not in facts:
            client.delete_model_version_tag(version.name, str(version.version), key)
    now = datetime.now(UTC)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        user = "unknown"
    facts = {**facts, "decided_at": now.isoformat(timespec="seconds"), "decided_by": f"{user}@{socket.gethostname()}"}
    for key, value in facts.items():
        client.set_model_version_tag(version.name, str(version.version), key, value)
    lines = [f"# {version.name} version {version.version}: {facts['decision']}", ""]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items()] + ["", *page, ""]
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / "decision.md", "\n".join(lines))
        for side, figures in sides.items():
            figures.clips.to_csv(Path(folder) / f"{side.replace(' ', '_')}.csv", index=False)
        place = f"{DECISIONS}/{now:%Y-%m-%dT%H-%M-%S.%f}-{facts['decision'].replace(' ', '-')}"
        client.log_model_artifacts(model_of(version), folder, place)


@clear_errors
def rollback(name: str, *, root: Path, reason: str = "") -> str:
    """Give the alias `champion` back to the version that had it before; returns a sentence.

    Both versions keep it as a decision, with the reason that a person gave.

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
    why = f": {' '.join(reason.split())}" if reason.strip() else ""
    for version, decision, reasons in (
        (champion, "rolled back", f"version {previous} is the champion again{why}"),
        (found, "restored", f"version {champion.version} was rolled back{why}"),
    ):
        _record(client, version, {"decision": decision, "decision_reasons": reasons}, [], {})
    client.set_registered_model_alias(model.registered, CHAMPION, previous)
    return f"{model.registered} version {previous} is the champion again, in place of version {champion.version}."


def _client(model: KnownModel, root: Path) -> "MlflowClient":
    if not has_store(root):
        raise TimbreflowError(f"There is no registry yet that could hold {model.registered}; run `make run` first.")
    return connect(root)


def _identity(folder: Path) -> dict[str, str]:
    return identity(folder, vocoder_beside(folder))
