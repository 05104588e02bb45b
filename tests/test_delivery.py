"""Workflows and the files around the code: pinned, of least rights, and built of make targets that exist."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)) | {"image"}


def load(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_say_their_version(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text(encoding="utf-8"))
    assert len(used) == sum("uses" in step for step in steps(path)) > 0
    for line in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}   # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_rights_are_least(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        written = {right for right, level in job.get("permissions", {}).items() if level == "write"}
        assert written == {"report": {"pull-requests"}, "publish": {"contents"}}.get(name, set())
        assert job["timeout-minutes"]
    for step in steps(path):
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        # What a stranger writes, such as the title of a pull request, must not become part of a command.
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_step_is_a_target_that_runs_at_home(path: Path) -> None:
    commands = [step["run"] for step in steps(path) if "run" in step]
    for command in commands:
        target = re.match(r"make ([a-z-]+)", command)
        assert target[1] in TARGETS if target else command.startswith(("gh ", "cat ")), command
    assert any(command.startswith("make ") for command in commands)


def test_both_python_versions_are_tested() -> None:
    ci = load(ROOT / ".github" / "workflows" / "ci.yml")
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]


def test_the_citation_has_the_version_of_the_package() -> None:
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert declared is not None
    assert load(ROOT / "CITATION.cff")["version"] == declared[1]


def test_a_release_under_another_version_is_refused() -> None:
    done = subprocess.run(["make", "release", "TAG=v99.0.0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "error: TAG=v99.0.0 is not v" in done.stderr


def test_a_comment_against_a_commit_that_is_not_here_is_one_sentence(tmp_path: Path) -> None:
    command = [ROOT / ".ci" / "comment.sh", "nowhere", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: nowhere is not a commit of this checkout; fetch it\n")
    assert not (tmp_path / "out").exists()
