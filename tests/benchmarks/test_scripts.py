"""Scripts that use each other, started as the documentation does."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WITH_SISTERS = sorted(path for path in BENCHMARKS.glob("*.py") if "\nfrom benchmarks" in path.read_text("utf-8"))


@pytest.mark.parametrize("script", WITH_SISTERS, ids=lambda path: path.name)
def test_a_script_finds_its_sisters_from_any_folder(script: Path, tmp_path: Path) -> None:
    asked = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith(f"usage: {script.name}")
