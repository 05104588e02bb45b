"""`make ops-demo`: it ends well, on loopback alone, and leaves nothing behind."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from benchmarks import ops_demo
from timbreflow.errors import TimbreflowError

ROOT = Path(__file__).resolve().parents[2]
OWN = (".mlflow", ".prefect", ".run", "data", ".scratch", ".dvc/cache", "dvc.lock", "params.yaml", ".dvc/config")


def marks() -> dict[str, float | None]:
    """When what is the user's was changed last."""
    return {name: (ROOT / name).stat().st_mtime if (ROOT / name).exists() else None for name in OWN}


def of_the_demo() -> list[str]:
    """Command lines of processes that work below a demo's folder."""
    return [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline", "cwd"])
        if "timbreflow-ops-demo-" in f"{process.info['cwd']} {process.info['cmdline']}"
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_passes_and_leaves_no_trace(tmp_path: Path) -> None:
    before = marks()
    # A user's own servers must not be asked: nothing listens there.
    strange = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ops_demo"],
        cwd=ROOT,
        env=os.environ | strange | {"TMPDIR": str(tmp_path), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "open ports are on 127.0.0.1" in done.stdout
    assert "timbreflow-glow version 1, champion" in done.stdout
    assert "version 2: " in done.stdout and "rolled back" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("ops-demo passed in ")
    assert list(tmp_path.iterdir()) == []
    assert marks() == before
    assert of_the_demo() == []


def test_without_postgresql_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with ExitStack() as ends, pytest.raises(TimbreflowError, match="not installed: sudo apt-get install postgresql"):
        ops_demo.services(ops_demo.Demo(tmp_path, ends))
