"""What is stored of a MIDI file stays as it was: ids, notes and numbers of tracks, beside a plain way to work them out.

Ids decide the splits, so one that changed would move pieces from training to test.
"""

import hashlib
import random
from collections.abc import Callable

import numpy as np
import pytest
import symusic

from timbreflow.notes.pieces import Piece, ReadLimits
from timbreflow.notes.readers import midi
from timbreflow.notes.readers.midi import read_midi


def crowded_song(seed: int) -> bytes:
    """Four tracks of 300 notes: chords, several notes on one key at one time, and onsets closer than a millisecond."""
    generator = random.Random(seed)
    score = symusic.Score(960)
    for program in (0, 24, 40, 9):
        track = symusic.Track(f"part {program}", program, program == 9)
        for _ in range(300):
            onset, pitch = generator.randrange(2000), generator.randrange(50, 55)
            track.notes.append(symusic.Note(onset, generator.randrange(1, 900), pitch, generator.randrange(1, 128)))
        score.tracks.append(track)
    score.tempos.append(symusic.Tempo(0, qpm=977.0))
    return bytes(score.dumps_midi())


def plain_rows(data: bytes) -> list[np.ndarray]:
    """[n, 4] float64 (onset, pitch, duration, velocity) of each track, in that order."""
    tracks = symusic.Score.from_midi(data).to("second").tracks
    return [
        np.array(sorted((n.time, n.pitch, n.duration, n.velocity) for n in track.notes if n.duration > 0))
        for track in tracks
    ]


def plain_id(piece: Piece) -> str:
    """The id as its docstring says it."""
    digests = []
    for track in piece.tracks:
        notes = track.notes
        times = (np.rint(time.astype(np.float64) * 1000).astype(int).tolist() for time in (notes.onset, notes.duration))
        onset, duration = times
        rows = sorted(zip(onset, notes.pitch.tolist(), duration, notes.velocity.tolist(), strict=True))
        columns = np.array(rows, "<i8").T[[0, 2, 1, 3]]
        digests.append(hashlib.sha256(columns.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]


@pytest.mark.parametrize("seed", range(6))
def test_notes_and_id_are_those_of_the_plain_way(seed: int, limits: ReadLimits) -> None:
    data = crowded_song(seed)
    piece = read_midi(data, limits)
    columns = ("onset", "pitch", "duration", "velocity")
    for track, rows in zip(piece.tracks, plain_rows(data), strict=True):
        np.testing.assert_array_equal(np.stack([getattr(track.notes, name) for name in columns], axis=1), rows)
    assert piece.piece_id == plain_id(piece)
    assert piece.mean_pitches == pytest.approx([track.notes.pitch.mean() for track in piece.tracks])
    twins = sum(int((np.diff(rows[:, :2], axis=0) == 0).all(axis=1).sum()) for rows in plain_rows(data))
    assert twins > 5  # notes that only duration and velocity order


def test_ids_are_those_of_before(song: Callable[..., bytes], limits: ReadLimits) -> None:
    assert [read_midi(data, limits).piece_id for data in (song(), song(5, drums=True), song(7, programs=(73,)))] == [
        "467521455cb6d10b",
        "a9fb829d043198c7",
        "372e3af628482d5b",
    ]


def test_the_same_piece_where_memory_is_not_as_expected(
    song: Callable[..., bytes], limits: ReadLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [read_midi(data, limits) for data in (song(3, drums=True), crowded_song(1))]
    monkeypatch.setattr(midi, "raw_notes", midi._from_columns)
    found = [read_midi(data, limits) for data in (song(3, drums=True), crowded_song(1))]
    assert [piece.piece_id for piece in found] == [piece.piece_id for piece in expected]
    assert all(np.array_equal(a.notes.onset, b.notes.onset) for a, b in zip(found, expected, strict=True))
    assert midi._promised()  # else the fast way is not taken with the symusic that is installed
