"""A Dask scheduler that dies in the middle: one sentence, finished shards kept, and the next run goes on."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.runners import ROOT, checkout, finished_shards, prefect_server, start_flow
from timbreflow.stages.layout import Layout

pytest.importorskip("prefect_dask", reason="dask is an extra: pip install -e '.[dask]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

QUICK = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "20s"}
"""How long Dask's client tries to reach a scheduler; 30 s by default."""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    made = checkout(tmp_path_factory.mktemp("cluster"), 60)
    with prefect_server(made):
        yield made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """Address of a scheduler, and its process and that of a worker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    dask = Path(sys.executable).parent / "dask"
    words = (
        ["scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"],
        ["worker", address, "--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--death-timeout", "600"],
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    processes = [
        subprocess.Popen([dask, *command], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        for command in words
    ]
    yield address, processes
    for process in processes:
        process.terminate()
        process.wait()


def last_line(output: str) -> str:
    return output.strip().splitlines()[-1]


def test_a_dead_scheduler_keeps_the_finished_shards(
    layout: Layout, cluster: tuple[str, list["subprocess.Popen[bytes]"]]
) -> None:
    address, (scheduler, _) = cluster
    flow = start_flow(layout, "render_triples", "dask", TIMBREFLOW_DASK_ADDRESS=address, **QUICK)
    while len(finished_shards(layout)) < 2:
        assert flow.poll() is None, flow.communicate()[0][-3000:]
        time.sleep(0.05)
    scheduler.kill()
    output, _ = flow.communicate()
    assert flow.returncode == 2
    assert re.match(rf"error: No dask scheduler answers at TIMBREFLOW_DASK_ADDRESS={address}", last_line(output)), (
        output
    )
    kept = len(finished_shards(layout))
    assert kept >= 2
    assert not layout.audio.exists()
    again = start_flow(layout, "render_triples", "threads")
    output, _ = again.communicate()
    assert again.returncode == 0, output[-3000:]
    assert f"reused {kept} shards" in output
