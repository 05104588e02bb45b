"""Choosing temperature and variance scale: notes stay in reach, and settings are compared clip by clip."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.decoding import HELD_OUT, in_reach, summary
from timbreflow.notes.tables import Notes
from timbreflow.rendering.sampler import Sampler
from timbreflow.testsets.frozen import SAMPLE_RATE


@pytest.fixture
def sampler(tmp_path: Path) -> Sampler:
    (tmp_path / "tuba").mkdir()
    for stem, pitch in (("C2", 36), ("C3", 48), ("C4", 60)):
        tone = 0.5 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * np.arange(2 * 44100) / 44100)
        soundfile.write(tmp_path / "tuba" / f"{stem}.mp3", tone, 44100)
    return Sampler({"tuba": tmp_path / "tuba"}, sample_rate=SAMPLE_RATE, instruments=HELD_OUT)


@pytest.mark.parametrize(("pitch", "moved"), [(50, 0), (70, -12), (85, -24), (26, 12)])
def test_notes_are_moved_by_octaves_into_reach(sampler: Sampler, pitch: int, moved: int) -> None:
    notes, found = in_reach(sampler, "tuba", Notes.of([0.0], [1.0], [pitch], [100]))
    assert notes is not None
    assert (notes.pitch.tolist(), found) == ([pitch + moved], moved)


def test_notes_over_too_many_octaves_are_left_out(sampler: Sampler) -> None:
    assert in_reach(sampler, "tuba", Notes.of([0.0, 1.0], [1.0, 1.0], [30, 90], [100, 100])) == (None, 0)


def test_settings_are_compared_clip_by_clip() -> None:
    clips = np.array([10.0, 20.0, 30.0, 40.0])
    first = {"lsd": clips, "mfcc": clips, "onset_f1": clips}
    better = {"lsd": clips - 1.0, "mfcc": clips + np.array([1.0, -1.0, 1.0, -1.0]), "onset_f1": clips}
    assert summary(first, first) == {"lsd": 25.0, "mfcc": 25.0, "onset_f1": 25.0}
    means = summary(better, first)
    assert means["lsd_difference"] == [-1.0, 0.0]
    assert means["mfcc_difference"] == [0.0, pytest.approx(1.96 * np.sqrt(4 / 3) / 2, abs=1e-4)]
