"""What all flows share: errors as one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.orchestration import entry, profiled_arguments
from flows.train_vocoder import train_vocoder

ROOT = Path(__file__).resolve().parents[2]


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
