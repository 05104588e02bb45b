"""Workflows and the files around the code: pinned, of least rights, and built of make targets that exist."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
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


@pytest.mark.parametrize(
    ("plots", "code", "told"),
    [
        ('echo "unknown template" >&2; exit 255', 1, "error: dvc plots diff failed: unknown template\n"),
        (
            'echo "failed to load" >&2',
            0,
            "No plots: their data are in no remote that this run can read. failed to load",
        ),
        (
            'mkdir -p "$5" && touch "$5/index.html"',
            0,
            "in the [artifact `report`](https://github.com/o/timbreflow/actions/runs/7#artifacts) of this run.",
        ),
    ],
)
def test_a_comment_links_its_plots_or_says_why_there_are_none(tmp_path: Path, plots: str, code: int, told: str) -> None:
    tool = tmp_path / ".venv" / "bin" / "dvc"
    tool.parent.mkdir(parents=True)
    tool.write_text(f'#!/bin/sh\nif [ "$1" = plots ]; then {plots}; fi\n')
    tool.chmod(0o755)
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    github = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "o/timbreflow", "GITHUB_RUN_ID": "7"}
    command = [ROOT / ".ci" / "comment.sh", "HEAD", "out"]
    environment = os.environ | github
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert told in (done.stderr if code else (tmp_path / "out" / "comment.md").read_text())


def report(path: Path, name: str, version: str, url: str, sha256: str) -> Path:
    """As `pip install --report` writes one."""
    item = {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": url, "archive_info": {"hashes": {"sha256": sha256}}},
    }
    path.write_text(json.dumps({"install": [item]}))
    return path


def test_a_package_with_another_sha256_ends_the_setup(tmp_path: Path) -> None:
    text = (ROOT / "requirements.hashes").read_text(encoding="utf-8")
    found = re.search(r"^safetensors==(\S+) \\\n    --hash=sha256:([0-9a-f]{64})", text, re.MULTILINE)
    assert found is not None
    version, sha256 = found[1], found[2]
    url = "https://index.example/safetensors.whl"

    def check(*values: str, ci: str = "true") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / ".ci" / "hashes.py", report(tmp_path / "report.json", *values)]
        return subprocess.run(command, env={"CI": ci}, capture_output=True, text=True, check=False)

    same = check("safetensors", version, url, sha256)
    assert (same.returncode, same.stdout) == (0, "1 packages have the sha256 of requirements.hashes\n")
    other = check("safetensors", version, url, "0" * 64)
    assert other.returncode == 2
    assert f"safetensors=={version} (safetensors.whl, {'0' * 64})" in other.stderr
    for values in (("torch", "2.13.0+cpu", url), ("torch", "2.13.0", "file:///opt/torch.whl")):
        own = check(*values, "0" * 64)
        assert own.returncode == 0 and f"not compared, since they are this machine's own: {values[0]}" in own.stdout
    for name, other_version in (("new", "1"), ("safetensors", "0.0.1")):
        for ci, code, word in (("true", 2, "error"), ("", 0, "warning")):
            unlocked = check(name, other_version, url, sha256, ci=ci)
            assert unlocked.returncode == code
            assert (
                unlocked.stderr.startswith(f"{word}: nobody has tested")
                and f"{name}=={other_version}" in unlocked.stderr
            )


def test_every_package_of_the_lock_has_its_hashes() -> None:
    def pins(name: str) -> set[tuple[str, str]]:
        text = (ROOT / name).read_text(encoding="utf-8")
        found = re.findall(r"^([\w.-]+)==([^\s\\]+)", text, re.MULTILINE)
        return {(package.replace(".", "-").replace("_", "-"), version) for package, version in found}

    assert pins("requirements.hashes") == pins("requirements.lock") | {("basic-pitch", "0.4.0")}


STAGE = """\
stages:
  report:
    cmd: mkdir -p results/report/plots && cp curve.csv results/report/plots/ && cp figures.json metrics.json
    params: [noise]
    deps: [curve.csv, figures.json]
    outs: [results/report/plots]
    metrics:
    - metrics.json: {cache: false}
plots:
- curve: {x: step, y: {results/report/plots/curve.csv: loss}}
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_comment_has_metrics_parameters_and_plots_of_both_commits(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "comment.sh", root / ".ci" / "comment.sh")
    (root / ".venv").symlink_to(sys.prefix)
    (root / ".gitignore").write_text(".venv\n.scratch\n")
    (root / "dvc.yaml").write_text(STAGE)

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(lsd: float, noise: float) -> None:
        (root / "figures.json").write_text(json.dumps({"glow": {"lsd": lsd}}))
        (root / "params.yaml").write_text(f"noise: {noise}\n")
        (root / "curve.csv").write_text(f"step,loss\n1,{lsd}\n2,{lsd / 2}\n")
        run(dvc, "repro", "-q")
        run("git", "add", "-A")
        run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")

    dvc = Path(sys.executable).parent / "dvc"
    run("git", "init", "-q")
    run(dvc, "init", "-q")
    run(dvc, "remote", "add", "-d", "store", str(tmp_path / "store"))
    commit(9.5, 0.1)
    run(dvc, "push", "-q")
    commit(9.1, 0.2)
    run(dvc, "push", "-q")
    # As on a runner: the data are in the remote alone.
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "results")
    run(".ci/comment.sh", "HEAD~1", ".scratch/comment")
    text = (root / ".scratch" / "comment" / "comment.md").read_text()
    assert re.search(r"\| metrics.json *\| glow.lsd *\| 9.5 *\| 9.1 *\| -0.4", text), text
    assert re.search(r"\| params.yaml *\| noise *\| 0.1 *\| 0.2 *\|", text), text
    page = (root / ".scratch" / "comment" / "plots" / "index.html").read_text()
    assert "9.5" in page and "9.1" in page
    assert "`plots/index.html`" in text


@pytest.mark.parametrize(
    ("prints", "code", "result", "says"),
    [
        ("No known vulnerabilities found", 0, 0, ""),
        ("Found 2 known vulnerabilities in 1 package", 1, 1, ""),
        (
            "No known vulnerabilities found\nName Skip Reason\n---- ----\n"
            "yarl Dependency not found on PyPI and could not be audited: yarl (1.25.1)",
            0,
            3,
            "did not answer for 1 packages",
        ),
        ("requests.exceptions.ConnectionError: refused", 1, 3, "did not answer for the packages"),
    ],
)
def test_an_audit_that_reached_nobody_is_no_pass(
    prints: str, code: int, result: int, says: str, tmp_path: Path
) -> None:
    audit = tmp_path / "pip-audit"
    audit.write_text(f"#!/bin/sh\necho '{prints}'\nexit {code}\n")
    audit.chmod(0o755)
    done = subprocess.run([ROOT / ".ci" / "audit.sh", audit], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == result
    assert says in done.stderr and bool(done.stderr) == bool(says)
    assert ("No known vulnerabilities" in done.stdout) is (result == 0)


def test_the_mutation_score_counts_what_no_test_noticed() -> None:
    spec = importlib.util.spec_from_file_location("mutation", ROOT / ".ci" / "mutation.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Exit codes of pytest under mutmut: 1 and 3 fail, 36 takes too long, -11 crashes, 0 survives, 33 has no test.
    change = "--- a.py\n+++ a.py\n-    x > 0\n+    {}\n"
    found = [
        module.outcome(code, change.format(line), {"x >= 0"})
        for code, line in ((1, ""), (3, ""), (36, ""), (-11, ""), (0, "x < 0"), (0, "x >= 0"), (33, "x < 0"))
    ]
    assert found == [*["noticed"] * 4, "survived", "equivalent", "untested"]
    text, poor = module.report({"src/timbreflow/a.py": (9, found[:6]), "src/timbreflow/b.py": (2, found[-2:])})
    assert text.splitlines()[2:] == [
        "| a.py | 9 | 6 | 1 | 4 (80%) | 1 | 0 |",
        "| b.py | 2 | 2 | 1 | 0 (0%) | 0 | 1 |",
        "| all | 11 | 8 | 2 | 4 (67%) | 1 | 1 |",
    ]
    assert poor == ["src/timbreflow/b.py"]


def test_what_is_mutated_and_its_tests_exist() -> None:
    """Mutmut says nothing of a path that is not there."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    for path in (*found["only_mutate"], *found["pytest_add_cli_args_test_selection"], *found["also_copy"]):
        assert list(ROOT.glob(path)), path
