"""The public command that shows the same bytes from every runner."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_runner_makes_the_same_bytes_though_a_worker_is_killed() -> None:
    pytest.importorskip("prefect_dask", reason="dask is an extra: pip install -e '.[dask]'")
    pytest.importorskip("prefect_ray", reason="ray is an extra: pip install -e '.[ray]'")
    command = [sys.executable, "benchmarks/runners.py", "--triples", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["same"]
    killed = {name: row["workers_killed"] for name, row in result["runners"].items()}
    assert killed == {"threads": 0, "processes": 1, "dask": 1, "ray": 1}
