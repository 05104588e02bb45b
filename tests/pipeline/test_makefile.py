"""The Makefile where people have it: renamed, copied, unpacked without git, with nothing installed."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # The make that runs these tests must not speak to the one that they run.
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={**outer, "GIT_CEILING_DIRECTORIES": str(folder.parent), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with an environment that is up to date, in a folder whose name has a blank."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", ".gitignore", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root / name)
    venv.create(root / ".venv", with_pip=False)
    for stamp in (".core", ".installed"):
        (root / ".venv" / stamp).touch()
    return root


def makes_environment(root: Path) -> bool:
    done = make(root, "-n", "setup")
    assert done.returncode == 0, done.stderr
    return "-m venv .venv" in done.stdout


def test_an_environment_is_kept_where_it_was_made(checkout: Path, tmp_path: Path) -> None:
    assert not makes_environment(checkout)
    # One that several checkouts share through a link is no moved one.
    (tmp_path / "other").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        os.link(checkout / name, tmp_path / "other" / name)
    (tmp_path / "other" / ".venv").symlink_to(checkout / ".venv")
    assert not makes_environment(tmp_path / "other")


@pytest.mark.parametrize("how", ["renamed", "copied", "python is gone"])
def test_an_environment_that_cannot_work_is_made_anew(checkout: Path, tmp_path: Path, how: str) -> None:
    root = checkout
    if how == "python is gone":
        for link in (root / ".venv" / "bin").glob("python*"):
            link.unlink()
            link.symlink_to("/nowhere/python3")
    else:
        root = tmp_path / "another"
        checkout.rename(root) if how == "renamed" else shutil.copytree(checkout, root, symlinks=True)
    assert makes_environment(root)
    assert '[ -z "anew" ] || ' in make(root, "-n", "setup").stdout


@pytest.mark.parametrize("how", ["renamed", "no environment", "no python at all"])
def test_stop_and_clean_work_without_an_environment(checkout: Path, tmp_path: Path, how: str) -> None:
    root = checkout.rename(tmp_path / "another")
    (root / ".venv" / "bin" / "timbreflow").write_text(f"#!{checkout}/.venv/bin/python\n")
    if how != "renamed":
        shutil.rmtree(root / ".venv")
    server = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "-m", "prefect", "server"], start_new_session=True
    )
    (root / ".run").mkdir()
    (root / ".run" / "prefect.json").write_text(json.dumps({"pid": server.pid, "port": 1}))
    python = "/nowhere/python" if how == "no python at all" else sys.executable
    try:
        if how != "no python at all":
            done = make(root, "stop", f"PYTHON={python}")
            assert (done.returncode, done.stdout.strip()) == (0, "stopped: prefect"), done.stderr
            assert server.wait(10) != 0
        done = make(root, "clean", f"PYTHON={python}")
        assert done.returncode == 0, done.stderr
        assert not (root / ".venv").exists()
    finally:
        server.kill()


@pytest.mark.parametrize("git", [True, False])
def test_clean_leaves_what_git_has(checkout: Path, git: bool) -> None:
    kept = [
        checkout / "results" / name
        for name in (
            "ablations/table.md",
            "ablations/per_clip/glow.csv",
            "ablations/glow.json",
            "testsets/real/table.md",
            "evaluate/metrics.json",
            "train_vqvae/base/metrics.json",
        )
    ]
    made = [
        checkout / name
        for name in ("results/evaluate/report.html", "results/.evaluate-1/metrics.json", "data/mels/index.parquet")
    ]
    for path in (*kept, *made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (checkout / "results" / "linked.csv").symlink_to("/nowhere")
    if git:
        subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
        subprocess.run(["git", "add", "-A"], cwd=checkout, check=True)
    assert make(checkout, "clean").returncode == 0
    assert all(path.is_file() for path in kept)
    assert not any(path.exists() for path in made)
    assert not (checkout / "results" / "linked.csv").is_symlink()
    if git:
        status = subprocess.run(["git", "status", "--short"], cwd=checkout, capture_output=True, text=True, check=True)
        assert not [line for line in status.stdout.splitlines() if line[1] == "D"]


def test_dvc_works_in_an_archive_without_git(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    for name in (".dvc", ".ci"):
        (root / name).mkdir(parents=True)
    for name in ("Makefile", "dvc.yaml", ".dvc/config", ".ci/fluidsynth.sh", "params.yaml"):
        shutil.copy(ROOT / name, root / name)
    (root / ".venv").symlink_to(sys.prefix)
    done = make(root, "-o", ".venv/.installed", "setup")
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [root / ".venv" / "bin" / "dvc", "stage", "list", "--name-only"],
        cwd=root,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "register_models" in done.stdout.split()
