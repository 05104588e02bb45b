"""sh flows/run: a stage's command in a checkout and in the copies that DVC's experiments make of it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from timbreflow.tracking.connection import home_of, tracking_uri

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("place", [".", ".dvc/tmp/exps/standalone/tmp1", ".dvc/tmp/exps/tmp2"])
def test_it_takes_the_checkouts_python_and_the_folders_code(tmp_path: Path, place: str) -> None:
    root = tmp_path / "a checkout"
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    copy = root / place
    (copy / "flows").mkdir(parents=True)
    shutil.copy(ROOT / "flows" / "run", copy / "flows")
    done = subprocess.run(
        ["sh", "flows/run", "train_vqvae", "base"],
        cwd=copy,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split(" -m ") == [str(copy.resolve() / "src"), "flows.train_vqvae base\n"], done.stderr


def test_without_an_environment_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(["sh", ROOT / "flows" / "run", "evaluate"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "make setup" in done.stderr


def test_an_experiment_uses_the_stores_of_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for place in ("standalone/tmp1", "tmp2"):
        assert home_of(tmp_path / ".dvc" / "tmp" / "exps" / place) == tmp_path.resolve()
        assert tracking_uri(tmp_path / ".dvc/tmp/exps" / place) == tracking_uri(tmp_path)
    assert home_of(tmp_path / "work") == (tmp_path / "work").resolve()
