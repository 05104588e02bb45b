"""The notes that a model hears, and MIDI files of them."""

import sys
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import soundfile

from tests.inference.tiny import melody
from timbreflow.errors import TimbreflowError
from timbreflow.inference.pianoroll import HeardNote, joined, notes_of, write_midi
from timbreflow.inference.transfer import TimbreTransfer

ROOT = Path(__file__).resolve().parents[2]
NOTES = [HeardNote(0.0, 0.5, 60), HeardNote(0.5, 1.0, 64), HeardNote(0.5, 0.25, 67)]


def test_runs_of_a_pitch_are_notes() -> None:
    roll = np.zeros((128, 20), np.float32)
    roll[60, 0:5], roll[64, 5:20], roll[60, 8:10], roll[70, 3] = 0.9, 0.6, 0.5, 1.0  # the last is too short
    assert notes_of(roll, 0.1) == [
        HeardNote(0.0, pytest.approx(0.5), 60),
        HeardNote(pytest.approx(0.5), pytest.approx(1.5), 64),
        HeardNote(pytest.approx(0.8), pytest.approx(0.2), 60),
    ]


def test_rolls_of_chunks_are_joined_in_the_middle_of_what_they_share() -> None:
    whole = np.random.default_rng(0).random((128, 50)).astype(np.float32)
    parts = [whole[:, 0:20].copy(), whole[:, 14:34].copy(), whole[:, 28:50].copy()]
    np.testing.assert_array_equal(joined(parts, [0, 14.3, 27.8], overlap=6), whole)
    parts[0][:, -2:] = parts[1][:, :2] = 0  # the edges are not taken
    np.testing.assert_array_equal(joined(parts, [0, 14.3, 27.8], overlap=6), whole)


def test_a_midi_file_holds_the_notes(tmp_path: Path) -> None:
    write_midi(NOTES, tmp_path / "new" / "out.mid")
    (part,) = pretty_midi.PrettyMIDI(str(tmp_path / "new" / "out.mid")).instruments
    found = sorted((note.start, note.end - note.start, note.pitch) for note in part.notes)
    np.testing.assert_allclose(found, sorted(NOTES), atol=2e-3)


def test_without_pretty_midi_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pretty_midi", None)
    with pytest.raises(TimbreflowError, match=r"need pretty_midi.*type `make setup`"):
        write_midi(NOTES, tmp_path / "out.mid")


def test_a_model_without_a_head_hears_no_notes(bundles: dict[str, Path]) -> None:
    with pytest.raises(TimbreflowError, match="hears no notes"):
        TimbreTransfer.load(bundles["vqvae"]).notes(melody(1, 16000))


def test_the_released_model_hears_a_tune_and_its_transposition(tmp_path: Path) -> None:
    session = TimbreTransfer.released("vqvae")
    rate, pitches = 16000, [60, 64, 67, 72] * 5
    time = np.arange(rate // 2) / rate
    tune = np.concatenate(
        [
            sum(np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * k * time) / k**2 for k in (1, 2, 3, 4, 5))
            * np.exp(-4 * time)
            for pitch in pitches
        ]
    ).astype(np.float32)
    soundfile.write(tmp_path / "tune.wav", 0.1 * tune, rate)
    notes = session.midi_file(tmp_path / "tune.wav", tmp_path / "tune.mid")
    onsets = np.arange(len(pitches)) / 2

    def heard(found: list[HeardNote], shift: int) -> int:
        return sum(
            any(note.pitch == pitch + shift and abs(note.onset - onset) < 0.1 for note in found)
            for onset, pitch in zip(onsets, pitches, strict=True)
        )

    assert heard(notes, 0) >= 16
    assert heard(session.notes(0.1 * tune, transpose=4), 4) >= 16
    assert len(pretty_midi.PrettyMIDI(str(tmp_path / "tune.mid")).instruments[0].notes) == len(notes)
