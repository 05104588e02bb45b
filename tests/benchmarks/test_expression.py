"""The table of expression: sounds have the expression that rows claim, and the command writes it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import expression
from tests.inference.tiny import save_bundles
from timbreflow.metrics.expression import tuning


@pytest.fixture(scope="module")
def cases() -> dict[str, expression.Case]:
    return {case.name: case for case in expression.cases(expression.synthetic())}


def test_bent_sounds_keep_length_and_change_pitch() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    higher = expression.bent(tone, np.full(16000, 30.0))
    assert higher.shape == tone.shape
    assert tuning(higher) == pytest.approx(30, abs=2)


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("tuning of a melody at +30 cents", 27, 33),
        ("vibrato of +-46 cents", 41, 49),
        ("glide of 7 semitones: error of the path", 0, 0),
        ("slope of levels over 30 dB", 0.99, 1.01),
        ("phrase 20 dB softer", -20.5, -19.5),
        ("attack, 10 to 90 %", 4, 9),
        ("chords: notes too soft, of 14", 0, 0),
    ],
)
def test_the_contents_have_what_is_measured(
    cases: dict[str, expression.Case], name: str, lowest: float, highest: float
) -> None:
    case = cases[name]
    assert lowest <= case.figures(case.content)[0] <= highest


def test_the_command_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_bundles(tmp_path / "models")
    monkeypatch.setenv("TIMBREFLOW_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(sys, "argv", ["expression", "--clips", "1", "--models", "vqvae", "--out", str(tmp_path)])
    assert expression.main() == 0
    (row,) = json.loads((tmp_path / "expression.json").read_text())
    assert row["figures"]["content"] == [pytest.approx(30, abs=3)]
    assert set(row["figures"]) == {"content", "vqvae, off", "vqvae, on"}
    assert "| synthetic | tuning of a melody at +30 cents (cents) |" in (tmp_path / "table.md").read_text()
