"""From which code and data something was made: tags of runs and versions, and the way back from them."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

NOT_CODE = (":(exclude)dvc.lock", ":(exclude)results")
"""Files that a run itself changes."""
EXPERIMENT = "dvc.experiment"
"""Tag of runs and versions that an experiment of DVC made: its name."""


def lineage(root: Path) -> dict[str, str]:
    """Tags that say from which code and data something was made; what is unknown is left out.

    git_commit, git_dirty ("true" where tracked files differ from it), dvc_lock (`lock_digest`) and `EXPERIMENT`.
    """
    tags = {EXPERIMENT: name} if (name := dvc_experiment()) else {}
    if commit := git(root, "rev-parse", "HEAD"):
        tags["git_commit"] = commit
        # Untracked files are not part of the commit; results and the lock are written by the run itself.
        changed = git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *NOT_CODE)
        if changed is not None:
            tags["git_dirty"] = "true" if changed else "false"
    try:
        digest = lock_digest((root / "dvc.lock").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        digest = None
    return tags | ({"dvc_lock": digest} if digest else {})


def dvc_experiment() -> str | None:
    """Name of the experiment whose stage this process is; None outside of `dvc exp run`."""
    return os.environ.get("DVC_EXP_NAME") or None


def lock_digest(text: str) -> str | None:
    """md5 of the entries of trainings and evaluation in a dvc.lock, or None where it has none.

    A digest of the whole file would not do: DVC writes the entry of a stage after the stage, when its run and its
    registration are tagged already. The entries of earlier stages are final by then, and the committed dvc.lock gives
    the same digest, by which `commit_of_lock` finds it:

        stages = {name: entry for name, entry in yaml["stages"].items()
                  if name == "evaluate" or name.startswith("train_")}
        md5(json.dumps(stages, sort_keys=True, separators=(",", ":")))
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        stages = {
            name: entry
            for name, entry in YAML(typ="safe", pure=True).load(text)["stages"].items()
            if name == "evaluate" or str(name).startswith("train_")
        }
    except (YAMLError, KeyError, TypeError, AttributeError):
        return None
    if not stages:
        return None
    content = json.dumps(stages, sort_keys=True, separators=(",", ":"))
    # md5 as DVC itself uses; not for security.
    return hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()


def commit_of_lock(root: Path, digest: str) -> str | None:
    """The newest commit whose dvc.lock has this digest; None where no commit of this checkout has it."""
    for commit in (git(root, "log", "--all", "--format=%H", "--", "dvc.lock") or "").split():
        text = git(root, "show", f"{commit}:dvc.lock")
        if text is not None and lock_digest(text) == digest:
            return commit
    return None


def git(root: Path, *arguments: str) -> str | None:
    """What a git command in a checkout prints; None where it fails, as outside of git."""
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
