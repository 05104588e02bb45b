"""The benchmark of collecting in a tiny size: its line of JSON and what it refuses."""

import importlib.util
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pretty_midi
import pytest

COMMAND = Path(__file__).resolve().parents[2] / "benchmarks" / "collect.py"


def song(n_notes: int) -> bytes:
    """A scale of two hands and a drum."""
    midi = pretty_midi.PrettyMIDI()
    for is_drum in (False, False, True):
        part = pretty_midi.Instrument(0, is_drum)
        part.notes = [pretty_midi.Note(80, 40 + k % 40, 0.5 * k, 0.5 * k + 0.4) for k in range(n_notes)]
        midi.instruments.append(part)
    file = io.BytesIO()
    midi.write(file)
    return file.getvalue()


@pytest.mark.slow
def test_one_line_of_json_with_all_figures(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("collect_benchmark", COMMAND)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for n_files in (4, 40):  # archives that are there are used, so that no corpus is read
        module._make_archive(tmp_path / f"midi-{n_files}-3.tar.gz", [song(60), song(90)], n_files, 3)
    options = ["--files", "40", "--repeats", "1", "--workers", "2", "--seed", "3", "--work", str(tmp_path)]
    done = subprocess.run([sys.executable, COMMAND, *options], check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["files"] == result["pieces"] == 40  # all variations are distinct
    assert result["same_notes_as_pretty_midi"] == "40 of 40"
    assert set(result["peak_memory_mb"]) == {"4", "40"} and result["peak_memory_ratio"] < 1.3
    assert 0 < result["cpu_ratio_to_symusic"] < 1  # it does all that bare symusic does
    assert result["clock_ratio_to_one_symusic_process"] > 0 and result["clock_speedup_over_2021"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["midi-4-3.tar.gz", "midi-40-3.tar.gz"]
    variations = {module._variation(song(60), random.Random(seed)) for seed in range(20)}
    assert len(variations) == 20


@pytest.mark.parametrize("options", [["--files", "9"], ["--workers", "0"], ["--repeats", "0"]])
def test_senseless_options_are_refused(options: list[str]) -> None:
    done = subprocess.run([sys.executable, COMMAND, *options], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "error: " in done.stderr
