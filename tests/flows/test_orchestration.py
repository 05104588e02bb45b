"""What all flows share: the runner that the environment chooses, and errors as one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from flows.orchestration import entry, profiled_arguments, runner
from flows.train_vocoder import train_vocoder
from timbreflow.errors import TimbreflowError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("name", "kind"), [("threads", ThreadPoolTaskRunner), ("processes", ProcessPoolTaskRunner)])
def test_the_environment_chooses_the_runner(name: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBREFLOW_RUNNER", name)
    monkeypatch.setenv("TIMBREFLOW_WORKERS", "3")
    chosen = runner()
    assert isinstance(chosen, kind)
    assert chosen._max_workers == 3


def test_dask_is_a_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    runners = pytest.importorskip("prefect_dask.task_runners", reason="dask is an extra: pip install -e '.[dask]'")
    monkeypatch.setenv("TIMBREFLOW_RUNNER", "dask")
    monkeypatch.setenv("TIMBREFLOW_DASK_ADDRESS", "tcp://127.0.0.1:8786")
    assert isinstance(runner(), runners.DaskTaskRunner)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("TIMBREFLOW_RUNNER", "nonsense", "threads, processes, dask or ray"),
        ("TIMBREFLOW_WORKERS", "many", "TIMBREFLOW_WORKERS"),
        ("TIMBREFLOW_WORKERS", "0", "TIMBREFLOW_WORKERS"),
    ],
)
def test_a_wrong_environment_is_named(variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(TimbreflowError, match=words):
        runner()


def test_a_runner_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBREFLOW_RUNNER", "ray")
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    monkeypatch.setitem(sys.modules, "prefect_ray.task_runners", None)
    with pytest.raises(TimbreflowError, match=r"\.\[ray\]"):
        runner()


def test_a_wrong_environment_ends_a_flow_with_one_sentence() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "flows.collect_midi"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TIMBREFLOW_RUNNER": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: TIMBREFLOW_RUNNER=nonsense")
    assert "Traceback" not in result.stderr


def test_a_flow_that_cannot_be_shared_refuses_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        entry(train_vocoder)
    assert ended.value.code == 2
    assert "train_vocoder runs in one process" in capsys.readouterr().err


def test_profile_is_a_word_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBREFLOW_PROFILE", "")
    monkeypatch.setattr(sys, "argv", ["train_vqvae", "--profile", "base"])
    assert profiled_arguments() == ["base"]
    assert os.environ["TIMBREFLOW_PROFILE"] == "1"
