"""What flows.pipeline starts: its lines, its errors, what DVC skipped, and its end."""

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import StateType
from prefect.states import Completed
from prefect.testing.utilities import prefect_test_harness

from flows import orchestration, pipeline
from flows.orchestration import plain_task
from timbreflow.errors import TimbreflowError
from timbreflow.processes import process_tag

FAILING = """
import sys
print("Running stage 'train_glow':")
print("error: passed.json is missing; run validate_data.", file=sys.stderr)
print("ERROR: failed to reproduce 'train_glow': exited with 2", file=sys.stderr)
sys.exit(255)
"""
LONG = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print(child.pid, flush=True)
time.sleep(100)
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines of the run's log; `python -m dvc` runs dvc.py of the folder."""
    lines: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log = logging.Logger("run")
    log.addHandler(Keeping())
    monkeypatch.setattr(pipeline, "get_run_logger", lambda: log)
    monkeypatch.setattr(pipeline, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return lines


def test_a_failed_stage_is_in_the_log_and_its_own_error_in_the_exception(said: list[str], tmp_path: Path) -> None:
    (tmp_path / "dvc.py").write_text(FAILING)
    with pytest.raises(TimbreflowError, match=r"train_glow` failed: passed\.json is missing; run validate_data\.$"):
        pipeline.reproduce("train_glow")
    assert sorted(said) == sorted(
        [
            "Running stage 'train_glow':",
            "error: passed.json is missing; run validate_data.",
            "ERROR: failed to reproduce 'train_glow': exited with 2",
        ]
    )


def test_where_no_stage_ran_the_error_is_dvcs_own(said: list[str], tmp_path: Path) -> None:
    (tmp_path / "dvc.py").write_text("print('ERROR: dvc.yaml is invalid.')\nraise SystemExit(1)")
    with pytest.raises(TimbreflowError, match=r"failed: dvc\.yaml is invalid\.$"):
        pipeline.reproduce("train_glow")


def test_a_stage_is_a_child_of_the_task_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ids: dict[str, Any] = {}

    @flow
    def stage(variant: str) -> None:
        ids[variant] = runtime.flow_run.id

    def outer() -> None:
        monkeypatch.setenv(orchestration.PARENT_TASK, str(runtime.task_run.id))

    @flow
    def parent() -> None:
        ids["parent"] = runtime.flow_run.id
        plain_task(outer)()

    monkeypatch.setattr(orchestration, "SECONDS_FOR_PARENT", 20.0)
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        parent()
        orchestration._start(stage, "child")
        monkeypatch.setattr(orchestration, "SECONDS_FOR_PARENT", 0.5)
        monkeypatch.setenv(orchestration.PARENT_TASK, str(uuid4()))
        orchestration._start(stage, "orphan")
        below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[ids["parent"]]))
        (child,) = client.read_flow_runs(flow_run_filter=below)
        assert str(child.id) == ids["child"] and child.parameters == {"variant": "child"}
        assert child.state_type == client.read_flow_run(ids["orphan"]).state_type == StateType.COMPLETED
        assert child.tags == [process_tag()]


SAYING = """
import sys
from pathlib import Path
words = [Path(sys.argv[0]).stem, *sys.argv[1:]]
if words[1:] != ["config", "core.remote"]:
    print("typed:", *words)
elif Path("remote").exists():
    print("store")
"""


def commands(said: list[str]) -> list[str]:
    """What was typed since the last look."""
    found = [line.removeprefix("typed: ") for line in said if line.startswith("typed: ")]
    said.clear()
    return found


@pytest.fixture
def saying(said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same, with programs that say how they were started; Prefect is not asked."""

    def task(function: Any, name: str) -> Any:
        def call(*arguments: Any, return_state: bool = False) -> Any:
            found = function(*arguments)
            return Completed(data=found) if return_state else found

        return call

    (tmp_path / "dvc.py").write_text(SAYING)
    (tmp_path / "timbreflow").mkdir()
    (tmp_path / "timbreflow" / "__init__.py").touch()
    (tmp_path / "timbreflow" / "cli.py").write_text(SAYING)
    monkeypatch.setattr(pipeline, "plain_task", task)
    monkeypatch.setattr(pipeline.lifetime, "tag_this_run", lambda: None)
    return said


def test_the_last_task_changes_no_alias_where_nothing_is_registered(saying: list[str]) -> None:
    pipeline.pipeline.fn()
    first, *stages, last = commands(saying)
    assert first == "cli cache"
    assert stages == [f"dvc repro --single-item {stage}" for stage in pipeline.Stage]
    assert last == "cli register --check"


def test_results_are_pushed_after_all_else(saying: list[str], tmp_path: Path) -> None:
    (tmp_path / "remote").touch()
    pipeline.pipeline.fn(push=True)
    assert commands(saying)[-2:] == ["cli register --check", "dvc push"]
    pipeline.pipeline.fn(only=pipeline.Stage.TRAIN_VQVAE_BASE, push=True)
    assert commands(saying) == ["dvc repro --single-item train_vqvae@base", "dvc push train_vqvae@base"]


def test_without_a_remote_nothing_is_begun(saying: list[str]) -> None:
    with pytest.raises(TimbreflowError, match=r"^DVC has no default remote to push to; .*dvc remote add --default"):
        pipeline.pipeline.fn(push=True)
    assert commands(saying) == []


@pytest.mark.usefixtures("said")
def test_a_push_copies_to_the_default_remote(tmp_path: Path) -> None:
    def dvc(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, check=True)

    dvc("init", "--no-scm", "--quiet")
    with pytest.raises(TimbreflowError, match="no default remote"):
        pipeline.require_remote()
    dvc("remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"))
    (tmp_path / "made.txt").write_text("made")
    dvc("add", "--quiet", "made.txt")
    pipeline.require_remote()
    pipeline.run_logged("dvc", "push")
    (copy,) = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert copy.read_text() == "made"


@pytest.mark.usefixtures("said")
def test_what_dvc_skipped_is_shown_as_cached(tmp_path: Path) -> None:
    task = plain_task(pipeline.reproduce, name="stage")
    names = []
    with prefect_test_harness(server_startup_timeout=120):
        for line in ("Stage 'x' didn't change, skipping", "Running stage 'x':"):
            (tmp_path / "dvc.py").write_text(f"print({line!r})")
            names.append(task("x", return_state=True).name)
    assert names == ["Cached", "Completed"]


def test_an_interrupted_pipeline_leaves_no_process(
    said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.py").write_text(LONG)
    pids: list[int] = []

    class Interrupting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pids.append(int(record.getMessage()))
            raise KeyboardInterrupt

    log = logging.Logger("run")
    log.addHandler(Interrupting())
    monkeypatch.setattr(pipeline, "get_run_logger", lambda: log)
    with pytest.raises(KeyboardInterrupt):
        pipeline.reproduce("train_glow")
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pids[0]) and psutil.Process(pids[0]).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
