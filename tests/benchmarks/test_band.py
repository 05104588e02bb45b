"""The table of the band above 8 kHz: triples are rendered at 48 kHz, and the command writes what it says."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import band
from tests.inference.tiny import save_bundles

SECONDS, RATE = 2, band.SAMPLE_RATE


def triple() -> band.Triple:
    """A content that is dark, and a style and target that are bright."""
    rng = np.random.default_rng(0)
    dark = np.convolve(rng.standard_normal(SECONDS * RATE), np.ones(24) / 24, "same")
    bright = rng.standard_normal((2, SECONDS * RATE))
    content, style, target = (np.float32(0.1) * sound.astype(np.float32) for sound in (dark, *bright))
    return band.Triple("noise/0/0", content, style, target)


def test_the_command_writes_figures_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_bundles(tmp_path / "models")
    monkeypatch.setenv("TIMBREFLOW_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(band, "triples", lambda name, count, layout: iter([triple()] * count))
    asked = ["band", "--testsets", "real", "--clips", "2", "--models", "vqvae", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", asked)
    assert band.main() == 0
    figures = json.loads((tmp_path / "band.json").read_text())["figures"]["real"]
    assert {row: len(values) for row, values in figures.items()} == dict.fromkeys(
        ("content copied", "target below 8 kHz", "target below 8 kHz, full", "vqvae, model", "vqvae, full"), 2
    )
    above = {row: values[0][0] for row, values in figures.items()}
    assert above["target below 8 kHz, full"] < 6 < 20 < above["target below 8 kHz"]
    assert above["vqvae, full"] < above["vqvae, model"]
    assert "| vqvae, full |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "panels.jpg").stat().st_size > 10_000
