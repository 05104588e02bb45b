"""kill -9 of a stage, and of dvc itself: nothing is done twice, and the result is that of an unbroken run."""

import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from checkout import Checkout

from timbreflow.app import servers
from timbreflow.files import read_json, sha256_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.xdist_group("killed")]

CHECKPOINT_EVERY = 10


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout whose Glow is trained."""
    checkout = Checkout(tmp_path_factory.mktemp("killed") / "checkout")
    values = checkout.values()
    values["render_triples"]["triples"]["train"] = 360
    values["train_glow"]["fit"] |= {"steps": 150, "checkpoint_every": CHECKPOINT_EVERY, "validate_every": 50}
    checkout.write(values)
    assert checkout.run("timbreflow", "ui").returncode == 0
    repro(checkout, "train_glow")
    yield checkout
    checkout.run("timbreflow", "stop")


def find(kind: str, root: Path) -> psutil.Process | None:
    """The process of a checkout that was started as `-m flows.X`, or as `dvc`."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(root) and any(word.endswith(kind) for word in words[:4]):
            return process
    return None


def kill_when(checkout: Checkout, stage: str, kind: str, ready: Callable[[], bool]) -> None:
    """Start a stage, wait until `ready`, kill -9 the process named `kind`, and wait until all of it is gone."""
    dvc = checkout.start("dvc", "repro", "--force", "--single-item", stage)
    deadline = time.monotonic() + 300
    while not ready():
        assert time.monotonic() < deadline
        assert dvc.poll() is None, dvc.stdout.read() if dvc.stdout else ""
        time.sleep(0.05)
    process = find(kind, checkout.root)
    assert process is not None
    process.kill()
    dvc.communicate(timeout=60)
    assert dvc.returncode != 0
    while find(f"flows.{stage}", checkout.root):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running(checkout: Checkout) -> list[str]:
    return [run["name"] for run in checkout.flow_runs() if run["state_type"] == "RUNNING"]


def repro(checkout: Checkout, *arguments: str) -> subprocess.CompletedProcess[str]:
    result = checkout.run("dvc", "repro", *arguments)
    assert result.returncode == 0, result.stdout[-3000:]
    return result


def shard_hashes(checkout: Checkout) -> dict[str, str]:
    folder = checkout.root / "data" / "audio"
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*.*"))}


def test_a_killed_render_reuses_its_shards(checkout: Checkout) -> None:
    unbroken = shard_hashes(checkout)
    scratch = checkout.root / ".scratch" / "render_triples"
    for kind in ("flows.render_triples", "dvc"):
        kill_when(checkout, "render_triples", kind, lambda: len(list(scratch.glob("*/**/clips.tar"))) >= 3)
        assert not (checkout.root / "data" / "audio").exists()
        # Without force DVC, which has the unbroken run in its cache, would only fetch that.
        output = repro(checkout, "--force", "--single-item", "render_triples").stdout
        found = re.search(r"reused (\d+) shards", output)
        assert found is not None
        assert int(found[1]) >= 1
        assert shard_hashes(checkout) == unbroken
        assert running(checkout) == []


def test_a_killed_training_goes_on_from_its_checkpoint(checkout: Checkout) -> None:
    weights = checkout.root / "data" / "models" / "glow" / "weights.safetensors"
    unbroken = sha256_file(weights)
    for kind in ("flows.train_glow", "dvc"):
        kill_when(checkout, "train_glow", kind, lambda: last_checkpoint(checkout) >= 3 * CHECKPOINT_EVERY)
        last = last_checkpoint(checkout)
        output = repro(checkout, "--force", "--single-item", "train_glow").stdout
        found = re.search(r"resumed at step (\d+)", output)
        assert found is not None, output[-3000:]
        assert int(found[1]) >= last
        assert sha256_file(weights) == unbroken
        assert running(checkout) == []
        assert_one_run_with_the_whole_curve(checkout)


def assert_one_run_with_the_whole_curve(checkout: Checkout) -> None:
    """MLflow's run of the last train_glow: finished, from the first steps on, and tied to its flow run."""
    run_id = read_json(checkout.root / "results" / "train_glow" / "run.json")["run_id"]
    with sqlite3.connect(checkout.root / ".mlflow" / "mlflow.db") as store:
        ((status,),) = store.execute("SELECT status FROM runs WHERE run_uuid = ?", (run_id,))
        ((first, last),) = store.execute(
            "SELECT min(step), max(step) FROM metrics WHERE run_uuid = ? AND key = 'train/loss'", (run_id,)
        )
        tags = dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)))
        open_runs = store.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0]
    assert (status, first, last, open_runs) == ("FINISHED", 1, 150, 0)
    flow_run = next(run for run in checkout.flow_runs() if run["id"] == tags["prefect_flow_run"])
    assert flow_run["name"] == "train_glow" and tags["prefect_url"].endswith(f"/runs/flow-run/{flow_run['id']}")
    links = [text for text in checkout.ask("artifacts/filter") if text["key"] == "train-glow-mlflow"]
    assert any(f"/runs/{run_id}" in text["data"] and "http://127.0.0.1:" in text["data"] for text in links)


def last_checkpoint(checkout: Checkout) -> int:
    steps = [
        int(path.name.removeprefix("step-"))
        for path in (checkout.root / ".scratch" / "train_glow").glob("*/**/step-*")
        if path.is_dir()
    ]
    return max(steps, default=0)


def wait_for_checkpoint(checkout: Checkout, dvc: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 900
    while last_checkpoint(checkout) < 3 * CHECKPOINT_EVERY:
        assert time.monotonic() < deadline
        assert dvc.poll() is None, dvc.stdout.read() if dvc.stdout else ""
        time.sleep(0.05)


def test_a_training_that_the_ui_cancels_ends_and_can_go_on(checkout: Checkout) -> None:
    dvc = checkout.start("dvc", "repro", "--force", "--single-item", "train_glow")
    wait_for_checkpoint(checkout, dvc)
    process = find("flows.train_glow", checkout.root)
    run_id = next(run["id"] for run in checkout.flow_runs() if run["state_type"] == "RUNNING")
    checkout.ask(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}, "force": True})
    output, _ = dvc.communicate(timeout=60)
    assert dvc.returncode != 0 and "interrupted" in output
    assert process is not None and not process.is_running()
    assert next(run["state_type"] for run in checkout.flow_runs() if run["id"] == run_id) == "CANCELLED"
    assert "resumed at step" in repro(checkout, "--force", "--single-item", "train_glow").stdout
    assert_one_run_with_the_whole_curve(checkout)


def test_a_training_outlives_the_prefect_server(checkout: Checkout) -> None:
    dvc = checkout.start("dvc", "repro", "--force", "--single-item", "train_glow")
    wait_for_checkpoint(checkout, dvc)
    servers.stop(checkout.root, [servers.PREFECT])
    output, _ = dvc.communicate(timeout=600)
    assert dvc.returncode == 0, output[-5000:]
    assert output.count("the work goes on without being shown") == 1
    assert output.count("the work is done") == 1
    assert "Traceback" not in output
    assert checkout.run("timbreflow", "ui").returncode == 0
    repro(checkout, "--force", "--single-item", "train_glow")
    assert running(checkout) == []
    assert_one_run_with_the_whole_curve(checkout)


def test_a_killed_pipeline_leaves_no_process(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / "data" / "models" / "glow")
    values = checkout.values()
    values["train_glow"]["noise"] = 0.2
    checkout.write(values)
    pipeline = checkout.start("python", "-m", "flows.pipeline")
    wait_for_checkpoint(checkout, pipeline)
    pipeline.kill()
    pipeline.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while find("flows.train_glow", checkout.root) or find("dvc", checkout.root):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    repro(checkout, "--single-item", "train_glow")
    assert running(checkout) == []
