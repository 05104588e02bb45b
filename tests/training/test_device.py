"""Which precision a training takes, and that a checkpoint keeps to it."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from timbreflow.errors import TimbreflowError
from timbreflow.training import device as device_module
from timbreflow.training import fit as fit_module
from timbreflow.training.device import choose_precision

CPU = torch.device("cpu")
TRAINING = """
import json, sys, logging
from pathlib import Path
import torch
from tests.training.test_fit import CONFIG, run
import dataclasses
logging.basicConfig(level=logging.INFO)
config = dataclasses.replace(CONFIG, steps=10, precision=sys.argv[2])
result, _, _ = run(Path(sys.argv[1]), config)
print(json.dumps(result.precision))
"""


def train_with_avx2_alone(folder: Path, asked: str) -> subprocess.CompletedProcess[str]:
    """A short training on what is, to torch and oneDNN, a processor of 2013."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-c", TRAINING, str(folder), asked]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_a_processor_without_bfloat16_trains_in_float32(tmp_path: Path) -> None:
    done = train_with_avx2_alone(tmp_path, "auto")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == "float32"
    assert "training in float32 on cpu" in done.stderr and "emulates" not in done.stderr


def test_bfloat16_by_name_warns_where_it_is_emulated(tmp_path: Path) -> None:
    done = train_with_avx2_alone(tmp_path, "bfloat16")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == "bfloat16"
    assert "emulates: a step of the 2021 recipe took 11.3 s so, and 1.36 s in float32" in done.stderr


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_asks_the_device(
    native: bool, expected: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_module, "has_bfloat16", lambda device: native)
    with caplog.at_level(logging.WARNING):
        assert choose_precision("auto", CPU) == expected
        assert choose_precision("float32", CPU) == "float32"
        assert choose_precision("float64", CPU) == "float64"
    assert not caplog.records


def test_cuda_does_not_count_what_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: asked.append(including_emulation))
    assert not device_module.has_bfloat16(torch.device("cuda"))
    assert asked == [False]


def test_a_checkpoint_of_another_precision_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training.test_fit import CONFIG, Killed, Regression, batches, new_model, validation

    def train(taken: str, kill_at: int) -> None:
        monkeypatch.setattr(fit_module, "choose_precision", lambda asked, device: taken)
        fit_module.fit(
            new_model(),
            Regression(),
            lambda start: batches(start, kill_at=kill_at),
            validation(),
            CONFIG,
            workdir=tmp_path,
            log=lambda step, values: None,
            device="cpu",
        )

    with pytest.raises(Killed):
        train("bfloat16", 30)
    with pytest.raises(TimbreflowError, match=r"was made in bfloat16, and this device trains in float32.*not be mixed"):
        train("float32", -1)
    train("bfloat16", -1)
