"""The same bytes from every runner, though one of its workers is killed.

In a temporary checkout the flow of each stage runs once with each runner: threads, processes, Dask (LocalCluster) and
Ray, two workers each. While render_triples runs, one worker process is killed with SIGKILL as soon as a shard is
finished and others are not; threads have no process of their own to kill. Then every file of data/audio and data/mels
is hashed. Seconds hold the start of Python and of the workers. The last line is JSON; the exit
code is 1 where two runners disagree.

    .venv/bin/python benchmarks/runners.py --triples 200
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from timbreflow.app.servers import PREFECT, start, stop
from timbreflow.config import load_params, preset_text
from timbreflow.errors import TimbreflowError
from timbreflow.files import sha256_file
from timbreflow.stages import collect_midi
from timbreflow.stages.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
RUNNERS = ("threads", "processes", "dask", "ray")
SCORES = ["music21/haydn", "music21/mozart", "music21/schumann_robert"]
WORKERS = 2
SHARDS = 10
"""About so many in the split train."""


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=int, default=200, help="triples of the split train")
    parser.add_argument("--runners", nargs="+", default=list(RUNNERS), choices=RUNNERS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="timbreflow-runners-") as folder:
        try:
            result = compare(Path(folder), options.runners, options.triples)
        except TimbreflowError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(json.dumps(result))
    return 0 if result["same"] else 1


def compare(root: Path, runners: Sequence[str], n_triples: int) -> dict[str, Any]:
    """Run render_triples and extract_mels with each runner and compare what they made.

    Args:
        root: empty folder of the temporary checkout.
        runners: names.
        n_triples: of the split train.

    Raises:
        TimbreflowError: a flow failed, or ended before a worker could be killed.
    """
    layout = checkout(root, n_triples)
    with prefect_server(layout):
        rows = {name: _run(layout, name) for name in runners}
    digests = {(row["manifest_sha256"], row["audio_sha256"], row["mels_sha256"]) for row in rows.values()}
    n_shards = len(list(layout.audio.glob("*/shard-*.tar")))
    return {"triples": n_triples, "shards": n_shards, "workers": WORKERS, "same": len(digests) == 1, "runners": rows}


def _run(layout: Layout, runner: str) -> dict[str, Any]:
    """Both stages with one runner."""
    began = time.perf_counter()
    killed = _render(layout, runner)
    rendered = time.perf_counter()
    _wait(start_flow(layout, "extract_mels", runner), "extract_mels")
    row = {
        "render_triples_seconds": round(rendered - began, 1),
        "extract_mels_seconds": round(time.perf_counter() - rendered, 1),
        "workers_killed": killed,
        "manifest_sha256": sha256_file(layout.audio / "manifest.parquet"),
        "audio_sha256": _digest(layout.audio),
        "mels_sha256": _digest(layout.mels),
    }
    print(f"{runner}: {json.dumps(row)}", file=sys.stderr, flush=True)
    return row


@contextmanager
def prefect_server(layout: Layout) -> Iterator[None]:
    """One Prefect server on a free port, which the flows of this checkout find."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ[PREFECT.port_variable] = str(probe.getsockname()[1])
    start(layout.root, [PREFECT])
    try:
        yield
    finally:
        stop(layout.root, [PREFECT])


def checkout(root: Path, n_triples: int) -> Layout:
    """params.yaml, dvc.yaml and note tables; the code is this checkout's."""
    shutil.copy(ROOT / "dvc.yaml", root)
    values = YAML().load(preset_text("default"))
    values["collect_midi"]["sources"] = SCORES
    values["render_triples"]["triples"] = {"train": n_triples, "validation": 4, "test": 4, "test_seen": 4}
    values["render_triples"]["triples_per_shard"] = max(1, n_triples // SHARDS)
    values["render_triples"]["splits"] |= {"validation_pieces": 0.2, "test_pieces": 0.3}
    text = StringIO()
    YAML().dump(values, text)
    (root / "params.yaml").write_text(text.getvalue(), encoding="utf-8")
    layout, config = Layout(root), load_params(root / "params.yaml").collect_midi
    for shard in collect_midi.plan(config, layout=layout):
        collect_midi.run_one(shard, config, layout=layout)
    collect_midi.finish(config, layout=layout)
    return layout


def start_flow(layout: Layout, stage: str, runner: str, **environment: str) -> "subprocess.Popen[str]":
    """A stage's flow as a process of its own, with further variables of the environment."""
    removed = {"TIMBREFLOW_DASK_ADDRESS", "TIMBREFLOW_RAY_ADDRESS"}
    own = {"TIMBREFLOW_ROOT": str(layout.root), "TIMBREFLOW_RUNNER": runner, "TIMBREFLOW_WORKERS": str(WORKERS)}
    inherited = {name: value for name, value in os.environ.items() if name not in removed}
    return subprocess.Popen(
        [sys.executable, "-m", f"flows.{stage}"],
        cwd=ROOT,
        env=inherited | own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished_shards(layout: Layout) -> list[Path]:
    """Shards that render_triples has rendered and not yet moved to data/audio."""
    return list(layout.scratch("render_triples").glob("*/*/shard-*/clips.tar"))


def _wait(flow: "subprocess.Popen[str]", stage: str) -> None:
    output, _ = flow.communicate()
    if flow.returncode:
        raise TimbreflowError(f"The flow {stage} failed; its last lines: {output[-2000:]}")


def _render(layout: Layout, runner: str) -> int:
    """Run render_triples and kill a worker in its middle; returns how many were killed."""
    flow = start_flow(layout, "render_triples", runner)
    killed = 0
    while runner != "threads" and flow.poll() is None and not killed:
        if finished_shards(layout):
            killed = _kill_worker(psutil.Process(flow.pid))
        time.sleep(0.02)
    _wait(flow, "render_triples")
    if runner != "threads" and not killed:
        raise TimbreflowError(f"The runner {runner} had ended before a worker could be killed; raise --triples.")
    return killed


def _kill_worker(flow: psutil.Process) -> int:
    """SIGKILL to the worker process that has worked most."""
    workers: Mapping[float, psutil.Process] = {}
    with suppress(psutil.NoSuchProcess):
        workers = {
            sum(process.cpu_times()[:2]): process
            for process in flow.children(recursive=True)
            if _is_worker(process.cmdline())
        }
    if not workers:
        return 0
    workers[max(workers)].kill()
    return 1


def _is_worker(words: list[str]) -> bool:
    """A process of a pool or of Dask's nanny, or one of Ray's that has a task."""
    return any("spawn_main" in word for word in words) or "".join(words[:1]).startswith("ray::")


def _digest(folder: Path) -> str:
    """One sha256 of all files of a folder, with their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = "".join(f"{sha256_file(path)} {path.relative_to(folder)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
