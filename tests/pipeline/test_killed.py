"""kill -9 of a stage, and of dvc itself: nothing is done twice, and the result is that of an unbroken run."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from checkout import Checkout

from timbreflow.files import sha256_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

CHECKPOINT_EVERY = 10


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("killed") / "checkout")
    values = checkout.values()
    values["render_triples"]["triples"]["train"] = 360
    values["train_glow"]["fit"] |= {"steps": 150, "checkpoint_every": CHECKPOINT_EVERY, "validate_every": 50}
    checkout.write(values)
    assert checkout.run("timbreflow", "ui").returncode == 0
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
    repro(checkout, "render_triples")
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
    repro(checkout, "train_glow")
    weights = checkout.root / "data" / "models" / "glow" / "weights.safetensors"
    unbroken = sha256_file(weights)
    scratch = checkout.root / ".scratch" / "train_glow"

    def last_checkpoint() -> int:
        steps = [int(path.name.removeprefix("step-")) for path in scratch.glob("*/**/step-*") if path.is_dir()]
        return max(steps, default=0)

    for kind in ("flows.train_glow", "dvc"):
        kill_when(checkout, "train_glow", kind, lambda: last_checkpoint() >= 3 * CHECKPOINT_EVERY)
        last = last_checkpoint()
        output = repro(checkout, "--force", "--single-item", "train_glow").stdout
        found = re.search(r"resumed at step (\d+)", output)
        assert found is not None, output[-3000:]
        assert int(found[1]) >= last
        assert sha256_file(weights) == unbroken
        assert running(checkout) == []
