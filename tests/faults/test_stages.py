"""Every stage of the pipeline under every fault that can be made here: what matrix.py promises is held."""

import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.dvc_cache import flip, stored
from tests.faults.house import STAGES, Ended, House
from tests.small_disk import read_only, small_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TARGETS = [stage for stage in STAGES if stage != "train_vqvae@paper"]
TRAININGS = [stage for stage in TARGETS if stage.startswith("train_")]
RESUMED = ["collect_midi", "render_triples", "extract_mels", *TRAININGS]
"""Stages with unfinished work in .scratch/."""
TRACKED = [*TRAININGS, "evaluate", "report", "register_models"]
"""Stages that write to MLflow."""
INPUTS = {
    "render_triples": "data/notes/notes*.parquet",
    "extract_mels": "data/audio/manifest.parquet",
    "validate_data": "data/audio/manifest.parquet",
    "train_timbre_metric": "data/audio/train/**/*.tar",
    "train_vqvae": "data/mels/**/*.npy",
    "train_glow": "data/mels/index.parquet",
    "train_refiner": "data/models/glow/weights.safetensors",
    "train_vocoder": "data/mels/statistics.json",
    "evaluate": "data/models/vqvae/config.json",
    "report": "results/evaluate/per_clip.parquet",
    "register_models": "results/evaluate/metrics.json",
}
"""One input of each stage that an earlier stage made."""
STORED = {
    "collect_midi": "data/notes/notes*.parquet",
    "report": "results/train_glow/curves.csv",
    "register_models": "data/models/vqvae/config.json",
}
"""Another one, or an output, where that one is not in the cache of DVC, or what makes it also writes times."""
PASSED = ("results/validate_data/passed.json",)
"""What has not passed must not let a training begin."""


def half(house: House, stage: str, **fault: Any) -> dict[str, Any]:
    """A fault in the middle of what a stage writes."""
    return {"when": max(house.events[stage] // 2, 1), **fault}


def assert_unbroken(house: House, stage: str) -> None:
    ended = house.stage(stage)
    assert ended.code == 0, ended.text[-3000:]
    assert house.digests(stage) == house.unbroken[stage]


def assert_nothing_half_written(house: House, stage: str) -> None:
    """What is there is what was there, or what an unbroken run writes, which is the same."""
    found = house.digests(stage)
    assert found.items() <= house.unbroken[stage].items()


def assert_refused(ended: Ended, house: House, stage: str, *, gone: tuple[str, ...] = ()) -> str:
    """It ended with one sentence, which is returned; all that was there is still there, but for what is `gone`."""
    assert ended.code == 2, ended.text[-3000:]
    assert len(ended.errors) == 1, ended.text[-3000:]
    assert "Traceback" not in ended.text, ended.text[-5000:]
    assert house.digests(stage) == {k: v for k, v in house.unbroken[stage].items() if k not in gone}
    assert house.leftovers() == []
    return ended.errors[0]


def of_dvc(stage: str) -> str:
    return "train_vqvae@base" if stage == "train_vqvae" else stage


def open_runs(house: House) -> list[str]:
    """Runs that look alive: of Prefect, and of MLflow."""
    with closing(sqlite3.connect(house.root / ".mlflow" / "mlflow.db")) as store:
        mlflow = [f"mlflow {name}" for (name,) in store.execute("SELECT name FROM runs WHERE status = 'RUNNING'")]
    states = ("PENDING", "RUNNING", "CANCELLING")
    return mlflow + [run["name"] for run in house.checkout.flow_runs() if run["state_type"] in states]


@pytest.mark.parametrize("stage", TARGETS)
def test_kill_9(house: House, stage: str) -> None:
    for fault in (half(house, stage), {"when": "metrics.json"}):
        ended = house.stage(stage, fault=fault | {"signal": signal.SIGKILL})
        assert ended.code == -signal.SIGKILL, ended.text[-3000:]
        assert_nothing_half_written(house, stage)
    assert_unbroken(house, stage)
    # The next start of any flow has marked the killed ones.
    assert open_runs(house) == []
    assert house.leftovers() == []


@pytest.mark.parametrize("stage", TARGETS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_interrupted(house: House, stage: str, number: signal.Signals) -> None:
    ended = house.stage(stage, fault=half(house, stage, signal=number))
    assert ended.code == 128 + number, ended.text[-3000:]
    assert [line for line in ended.errors if "interrupted" in line] == ended.errors and len(ended.errors) == 1
    assert "Traceback" not in ended.text, ended.text[-5000:]
    assert_nothing_half_written(house, stage)
    assert house.leftovers() == []
    assert open_runs(house) == []
    assert_unbroken(house, stage)


def test_full_disk_of_the_registry(house: House) -> None:
    """test_full_disk.py has the other stages."""
    with small_disk(house.root / ".mlflow", 64):
        sentence = assert_refused(house.stage("register_models"), house, "register_models")
    assert "full" in sentence or "No space" in sentence
    assert_unbroken(house, "register_models")


@pytest.mark.parametrize("stage", TARGETS)
def test_read_only_disk(house: House, stage: str) -> None:
    with read_only(*(house.root / name for name in ("data", "results", ".scratch"))):
        ended = house.stage(stage)
    assert "Read-only file system" in assert_refused(ended, house, stage)


@pytest.mark.parametrize("stage", TARGETS)
def test_server_that_goes_away(house: House, stage: str) -> None:
    ended = house.stage(stage, fault=half(house, stage, touch=str(house.gate.closed_by)))
    assert ended.code == 0, ended.text[-3000:]
    assert ended.text.count("the work goes on without being shown") <= 1
    assert ended.text.count("the work is done") == 1
    assert "Traceback" not in ended.text, ended.text[-5000:]
    assert house.digests(stage) == house.unbroken[stage]


@pytest.mark.parametrize("stage", TARGETS)
def test_slow_server(house: House, stage: str) -> None:
    house.gate.delay = 0.2
    passed = house.gate.passed
    assert_unbroken(house, stage)
    assert house.gate.passed > passed + 5


@pytest.mark.parametrize("stage", TRACKED)
def test_locked_database_of_mlflow(house: House, stage: str) -> None:
    with closing(sqlite3.connect(house.root / ".mlflow" / "mlflow.db", isolation_level=None)) as store:
        store.execute("BEGIN EXCLUSIVE")
        ended = house.stage(stage)
        store.execute("ROLLBACK")
    assert "database is locked" in assert_refused(ended, house, stage)


@pytest.mark.parametrize("stage", TARGETS)
def test_locked_database_of_prefect_for_a_while(house: House, stage: str) -> None:
    with closing(sqlite3.connect(house.root / ".prefect" / "prefect.db", isolation_level=None)) as store:
        store.execute("BEGIN IMMEDIATE")
        running = house.start_stage(stage)
        time.sleep(3)
        store.execute("ROLLBACK")
        ended = running.wait()
    assert ended.code == 0, ended.text[-3000:]
    assert house.digests(stage) == house.unbroken[stage]


@pytest.mark.parametrize("stage", TARGETS)
def test_clock_set_back(house: House, stage: str) -> None:
    if not house.has_clock:
        pytest.skip("needs a C compiler for the clock")
    ended = house.stage(stage, fault=half(house, stage, clock=-400 * 24 * 3600))
    assert ended.code == 0, ended.text[-3000:]
    assert house.digests(stage) == house.unbroken[stage]


@pytest.mark.parametrize("stage", RESUMED)
def test_unfinished_work_that_is_cut_off(house: House, stage: str) -> None:
    house.stage(stage, fault=half(house, stage, signal=signal.SIGKILL))
    scratch = house.root / ".scratch" / STAGES[stage].partition(" ")[0]
    files = [path for path in scratch.rglob("*") if path.is_file() and path.stat().st_size]
    assert files
    for path in files:
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size // 2)
    ended = house.stage(stage)
    if ended.code:
        assert str(scratch) in assert_refused(ended, house, stage)
        shutil.rmtree(scratch)
        assert_unbroken(house, stage)
    assert house.digests(stage) == house.unbroken[stage]


@pytest.mark.parametrize("stage", INPUTS)
@pytest.mark.parametrize("fault", ["cut", "missing"])
def test_input_that_is_not_whole(house: House, stage: str, fault: str) -> None:
    path = sorted(house.root.glob(INPUTS[stage]))[0]
    data = path.read_bytes()
    path.unlink() if fault == "missing" else path.write_bytes(data[: len(data) // 2])
    ended = house.stage(stage)
    assert str(path) in assert_refused(ended, house, stage, gone=PASSED if stage == "validate_data" else ())
    path.write_bytes(data)


@pytest.mark.parametrize("stage", TARGETS)
def test_damaged_cache_of_dvc(house: House, stage: str) -> None:
    """A file is lost, and DVC brings it back from its cache, where a bit was flipped."""
    path = sorted(house.root.glob(STORED.get(stage) or INPUTS[stage]))[0]
    right, name = path.read_bytes(), str(path.relative_to(house.root))
    house.dvc("commit", "--force")
    flip(stored(house.root, path))
    path.unlink()
    house.dvc("checkout")
    sentence = assert_refused(house.stage(stage, environment={"DVC_STAGE": of_dvc(stage)}), house, stage, gone=(name,))
    assert "DVC's cache" in sentence and name in sentence
    maker = next(one for one in STAGES if any(path.is_relative_to(out) for out in house.outputs(one)))
    house.dvc("repro", "--single-item", of_dvc(maker))
    assert path.read_bytes() == right
    assert_unbroken(house, stage)


@pytest.mark.parametrize("stage", TRAININGS)
def test_loss_that_is_not_a_number(house: House, stage: str) -> None:
    ended = house.stage(stage, fault={"when": 0, "nan": True})
    assert "diverged" in assert_refused(ended, house, stage)
    shutil.rmtree(house.root / ".scratch")


@pytest.mark.parametrize("stage", TARGETS)
def test_memory_that_ends(house: House, stage: str) -> None:
    """In the middle of the work; a limit for the process would end Prefect's threads first."""
    ended = house.stage(stage, fault=half(house, stage, allocation=True))
    assert "memory" in assert_refused(ended, house, stage, gone=PASSED if stage == "validate_data" else ())
    assert_unbroken(house, stage)


@pytest.mark.parametrize("stage", TARGETS)
def test_two_at_once(house: House, stage: str) -> None:
    both = [house.start_stage(stage), house.start_stage(stage)]
    ended = [running.wait() for running in both]
    assert [one.code for one in ended] == [0, 0], "\n".join(one.text[-2000:] for one in ended)
    assert sum("waiting for it to end" in one.text for one in ended) == 1
    assert house.digests(stage) == house.unbroken[stage]


@pytest.mark.xdist_group("elsewhere")  # in the order of the pipeline, each on what the ones before it made
@pytest.mark.parametrize("stage", STAGES)
def test_odd_environment(house: House, elsewhere: House, stage: str) -> None:
    """No HOME, LC_ALL=C, a path with blanks and umlauts, dead proxies, and another project's profile of Prefect."""
    if stage == "report":  # it tells how long each system took, in each house another time
        timing = "results/evaluate/timing.json"
        shutil.copy(house.root / timing, elsewhere.root / timing)
    ended = elsewhere.stage(stage)
    assert ended.code == 0, ended.text[-3000:]
    assert elsewhere.digests(stage) == house.unbroken[stage]
    named: list[Path] = [path for path in elsewhere.root.parent.iterdir() if path.name == "of-another-project"]
    assert [path.name for path in named[0].iterdir()] == ["profiles.toml"], "another project's home was written to"
