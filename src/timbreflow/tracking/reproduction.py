"""From a version of the registry back to its code and data, and the model made again from them."""

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from timbreflow.errors import TimbreflowError
from timbreflow.files import sha256_file
from timbreflow.models.catalogue import CATALOGUE, MODEL_FILES, KnownModel
from timbreflow.tracking.connection import clear_errors
from timbreflow.tracking.lineage import EXPERIMENT, commit_of_lock, git
from timbreflow.tracking.registry import version_at


@dataclass(frozen=True)
class Origin:
    """Where a version comes from.

    Args:
        model: which one it is a version of.
        version: its number.
        tags: of the version.
        commit: whose dvc.lock has the entries that the version was made with; where there is none, the commit that was
            checked out; empty where neither is known.
        in_lock: whether it is the former.
        shallow: whether this checkout lacks older commits, as after `git clone --depth 1`.
    """

    model: KnownModel
    version: str
    tags: dict[str, str]
    commit: str
    in_lock: bool
    shallow: bool = False

    @property
    def released(self) -> bool:
        """Whether the weights came from released/ and not from a training of this checkout."""
        return self.tags.get("released") == "yes"

    @property
    def stage(self) -> str:
        """Name of the stage in dvc.yaml that makes the model."""
        return self.model.section.replace(".", "@")

    def text(self) -> str:
        """What is known, a line each."""
        tags = self.tags
        if self.released:
            commit = tags.get("released_commit", "")
            about = {
                "commit": f"{commit} (put the weights into git)" if commit else "not known",
                "data": f"{tags.get('data_digest', 'not known')} (sha256; not of this checkout)",
                "training": tags.get("training_cost", "not recorded"),
                "pull": f"git checkout {commit} -- released/{self.model.name}" if commit else "",
            }
        else:
            dirty = {"true": ", whose tracked files had been changed", "false": ""}.get(tags.get("git_dirty", ""), "")
            remedy = "`git fetch --unshallow`" if self.shallow else "commit dvc.lock"
            place = f"that of commit {self.commit}" if self.in_lock else f"in no commit of this checkout: {remedy}"
            experiment = f", of the DVC experiment {tags[EXPERIMENT]}" if EXPERIMENT in tags else ""
            about = {
                "commit": f"{tags['git_commit']}{dirty}" if "git_commit" in tags else "not known",
                "dvc.lock": f"{tags['dvc_lock']}, {place}" if "dvc_lock" in tags else "not known",
                "data": f"{tags.get('data_digest', 'not known')} (digest in results/validate_data/passed.json)",
                "run": tags.get("run_id", "") + experiment,
                "pull": f"git checkout {self.commit} && dvc pull {self.stage}" if self.in_lock else "",
            }
        about = {"version": f"{self.version} of {self.model.registered}", "weights": tags["weights_sha256"]} | about
        if "decision" in tags:
            when = f"{tags.get('decided_at', '')} by {tags.get('decided_by', '')}"
            about["decision"] = f"{tags['decision']}, {when}: {tags.get('decision_reasons', '')}"
        return "\n".join(f"{name:9} {value}" for name, value in about.items() if value)


@clear_errors
def origin_of(uri: str, *, root: Path) -> Origin:
    """Look a version up and find the commit that it was made of.

    Raises:
        TimbreflowError: there is no such version.
    """
    found = version_at(uri, root=root)
    lock = found.tags.get("dvc_lock", "")
    commit = commit_of_lock(root, lock) if lock else None
    model = next(model for model in CATALOGUE if model.registered == found.name)
    tags = dict(found.tags)
    shallow = git(root, "rev-parse", "--is-shallow-repository") == "true"
    return Origin(model, str(found.version), tags, commit or tags.get("git_commit", ""), commit is not None, shallow)


def recipe(origin: Origin, *, root: Path) -> tuple[Path, list[list[str]]]:
    """Folder to work in, and the commands that make a version again there, each from the folder of this checkout.

    The commit is checked out beside, with this checkout's environment and DVC cache: what the cache or the remote has
    of earlier stages is taken from there, and the model itself is trained.

    Raises:
        TimbreflowError: the version was not made by this project's pipeline, or its commit is not here.
    """
    address = f"models:/{origin.model.registered}/{origin.version}"
    if origin.released:
        raise TimbreflowError(
            f"{address} was released: its weights come from released/, not from one run of dvc.yaml, so it cannot be "
            f"made again by one; its training record is in released/{origin.model.name}/config.json."
        )
    if not origin.commit or git(root, "cat-file", "-e", f"{origin.commit}^{{commit}}") is None:
        fetch = "--unshallow" if origin.shallow else "--all"
        raise TimbreflowError(f"The commit of {address} is not in this checkout; fetch it with `git fetch {fetch}`.")
    place = root / ".scratch" / "reproduce" / f"{origin.model.registered}-{origin.version}"
    dvc = [str(root / ".venv" / "bin" / "dvc"), "--cd", str(place)]
    commands = [
        ["ln", "-sfn", str(root / ".venv"), str(place / ".venv")],
        [*dvc, "cache", "dir", "--local", str(root / ".dvc" / "cache")],
        [*dvc, "repro", "--pull", origin.stage],
        [*dvc, "repro", "--force", "--single-item", "--no-run-cache", origin.stage],
    ]
    if not place.exists():
        commands.insert(0, ["git", "-C", str(root), "worktree", "add", "--detach", str(place), origin.commit])
    return place, commands


def script(origin: Origin, *, root: Path) -> str:
    """The recipe as lines of a shell."""
    place, commands = recipe(origin, root=root)
    lines = [f"export PYTHONPATH={shlex.quote(_code(place))}   # the commit's own code"]
    lines += [shlex.join(command) for command in commands]
    return "\n".join([*lines, f"sha256sum {_weights(origin, place)}   # {origin.tags['weights_sha256']} is expected"])


def remake(origin: Origin, *, root: Path) -> tuple[bool, str]:
    """Run the recipe; returns whether the weights are the same byte for byte, and a sentence.

    Raises:
        TimbreflowError: a command fails; see `recipe`.
    """
    place, commands = recipe(origin, root=root)
    environment = {**os.environ, "PYTHONPATH": _code(place)}
    for command in commands:
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            raise TimbreflowError(f"`{shlex.join(command)}` failed; its reason stands above.")
    made, expected = sha256_file(_weights(origin, place)), origin.tags["weights_sha256"]
    if made == expected:
        return True, f"{origin.model.registered} version {origin.version} was made again: sha256 {made}."
    return False, (
        f"{_weights(origin, place)} has sha256 {made} instead of {expected}: another processor, number of threads or "
        "library gives other rounding."
    )


def _code(place: Path) -> str:
    return f"{place / 'src'}{os.pathsep}{place}"


def _weights(origin: Origin, place: Path) -> Path:
    return place / "data" / "models" / origin.model.name / MODEL_FILES[1]
