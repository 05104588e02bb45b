"""Pairs from outside: what is drawn is true and level, and the figures are what they say."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.outside_pairs import OUTSIDE, SECONDS, SONIVOX, Instruments, draw, figures, play, sonivox
from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import Notes
from timbreflow.rendering.clips import RMS_DBFS
from timbreflow.rendering.sampler import Sampler
from timbreflow.rendering.soundfonts import bundled_soundfont
from timbreflow.testsets.frozen import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sampler(tmp_path: Path) -> Sampler:
    for name in ("clarinet", "harp"):
        (tmp_path / name).mkdir()
        for stem, pitch in (("C4", 60), ("Fs4", 66), ("C5", 72)):
            time = np.arange(3 * 44100) / 44100
            tone = 0.5 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time)
            soundfile.write(tmp_path / name / f"{stem}.mp3", tone, 44100)
    folders = {name: tmp_path / name for name in ("clarinet", "harp")}
    return Sampler(folders, sample_rate=SAMPLE_RATE, instruments=OUTSIDE)


def test_one_breath_plays_no_chords(sampler: Sampler) -> None:
    chord = Notes.of([0.0, 0.0], [1.0, 1.0], [60, 64], [100, 100])
    assert play(sampler, "clarinet", chord, chords=False) is None
    assert play(sampler, "harp", chord, chords=True) is not None


def test_notes_out_of_reach_are_not_played(sampler: Sampler) -> None:
    assert play(sampler, "harp", Notes.of([0.0], [1.0], [90], [100]), chords=True) is None


def test_clips_have_the_level_of_the_test_sets(sampler: Sampler) -> None:
    sound = play(sampler, "harp", Notes.of([0.0, 2.0], [2.0, 5.0], [60, 67], [100, 60]), chords=True)
    assert sound.shape == (round(SECONDS * SAMPLE_RATE),)
    assert 20 * np.log10(np.sqrt(np.mean(sound**2))) == pytest.approx(RMS_DBFS, abs=0.1)


def test_figures_of_perfect_and_of_idle_transfers(sampler: Sampler, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    notes = Notes.of([0.0, 2.0, 4.0], [2.0, 2.0, 3.0], [60, 64, 67], [100, 100, 100])
    target = play(sampler, "harp", notes, chords=True)
    content = (target + 0.05 * rng.standard_normal(len(target))).astype(np.float32)
    pairs = [{"content": content, "style": target, "target": target}]
    for name, output in (("perfect", target), ("idle", content)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "0.wav", output, SAMPLE_RATE, subtype="FLOAT")
    perfect, idle = (figures(pairs, tmp_path / name) for name in ("perfect", "idle"))
    assert (perfect["nearer_to_style"], perfect["lsd_over_content"]) == (1.0, 0.0)
    assert perfect["chroma"] == pytest.approx(1.0, abs=1e-3)
    assert (idle["nearer_to_style"], idle["lsd_over_content"]) == (0.0, 1.0)


def test_without_the_test_set_it_says_what_to_do(sampler: Sampler, tmp_path: Path) -> None:
    (tmp_path / "released").symlink_to(ROOT / "released")
    with pytest.raises(TimbreflowError, match="testset build artificial"):
        instruments = Instruments(["harp"], lambda name, notes: play(sampler, name, notes, chords=True))
        draw(instruments, tmp_path, 1, np.random.default_rng(0))


def test_programs_of_a_soundfont_play_too(tmp_path: Path) -> None:
    place = tmp_path / "sonivox" / "package" / SONIVOX[1]
    place.parent.mkdir(parents=True)
    place.symlink_to(bundled_soundfont())
    instruments = sonivox(tmp_path)
    assert "0" in instruments.names
    notes = Notes.of([0.0, 2.0], [2.0, 5.0], [60, 67], [100, 60])
    organ, piano = (instruments.play(name, notes) for name in ("16", "0"))
    assert organ is not None
    assert piano is not None
    assert 20 * np.log10(np.sqrt(np.mean(organ**2))) == pytest.approx(RMS_DBFS, abs=0.1)
    assert np.abs(organ - piano).max() > 0.01
    assert instruments.play("0", Notes.of([], [], [], [])) is None
