"""The benchmarks of reading, of training steps, of room and of several processes, in tiny sizes, as they are typed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_params import dump, tiny

from timbreflow.config import preset_text

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def run(name: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and the JSON of the last line."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TIMBREFLOW_DEVICE": "cpu"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout, result.stderr[-3000:]
    printed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return result.returncode, printed


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("settings") / "params.yaml"
    path.write_text(dump(tiny(preset_text("default"))))
    return str(path)


def test_load_says_how_much_faster_it_reads_than_2021() -> None:
    code, printed = run("load", "--triples", "12", "--batches", "3", "--batch-size", "4", "--repeats", "2")
    assert code == 0 and printed["triples"] == 12 and printed["shape"] == [128, 256]
    assert printed["ratio_to_2021"] > 5 and printed["ratio_to_2021_16_bit"] > 5
    assert 0 <= printed["wait"]["share"] <= 1


def test_mels_agree_with_librosa() -> None:
    code, printed = run("mels", "--clips", "4", "--repeats", "2")
    assert code == 0 and printed["largest_difference_db"] < 0.01
    assert printed["ratio_to_librosa"]["ours"] > 0.3  # one core: about as fast


def test_train_step_measures_both_models(settings: str) -> None:
    code, printed = run("train_step", "--params", settings, "--triples", "12", "--steps", "2", "--repeats", "1")
    assert code == 0
    for model in ("vqvae", "glow"):
        assert printed[model]["triples_per_second"]["with_loading"] > 0
        assert printed[model]["peak_memory_mb"] > 100


def test_storage_keeps_the_budget_and_doubles_nothing() -> None:
    code, printed = run("storage", "--triples", "12", "--clips", "2")
    assert code == 0 and printed["clips"] == 36
    room = printed["bytes_a_clip"]
    assert room["8_bit_mels"] < 0.6 * room["half_precision_mels"]
    assert printed["dvc_links"] is True
    assert printed["8_bit_against_half_precision"]["largest_error_db"] < 0.25


def test_torchrun_gives_the_loss_of_one_process_and_one_run_even_after_a_kill(settings: str) -> None:
    code, printed = run("torchrun", "--params", settings, "--triples", "16", "--steps", "6", "--kill")
    assert code == 0, printed
    for model in ("vqvae", "glow"):
        assert printed[model]["relative_difference"] <= 1e-6
        assert printed[model]["training_loss"]["largest"] <= 1e-6
        assert printed[model]["codebook_relative_difference"] <= 1e-5
