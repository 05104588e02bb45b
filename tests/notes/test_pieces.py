"""A piece is known by its notes, and counts its voices."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from timbreflow.notes.pieces import Piece, Track
from timbreflow.notes.tables import Notes

LINE = Notes.of([0, 1, 2], [1, 1, 1], [60, 62, 64], [80, 80, 80])
OTHER = Notes.of([0, 1, 2], [1, 1, 1], [60, 62, 65], [80, 80, 80])


def test_id_is_of_the_notes_alone() -> None:
    piece = Piece((Track(LINE, 0, False, "a"), Track(OTHER, 4, False, "b")))
    renamed = Piece((Track(OTHER, 9, False, "x"), Track(LINE, 8, False, "y")))
    assert piece.piece_id == renamed.piece_id
    assert len(piece.piece_id) == 16
    assert piece.piece_id != Piece((Track(LINE, 0, False, "a"),)).piece_id
    louder = Notes(LINE.onset, LINE.duration, LINE.pitch, LINE.velocity + np.uint8(1))
    assert Piece((Track(louder, 0, False, ""),)).piece_id != Piece((Track(LINE, 0, False, ""),)).piece_id


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=20))
def test_voices_is_the_mean_number_sounding_while_any_sounds(spans: list[tuple[int, int]]) -> None:
    notes = Notes.of([a for a, _ in spans], [b for _, b in spans], [60] * len(spans), [80] * len(spans))
    counts = np.zeros(60)
    for first, length in spans:
        counts[first : first + length] += 1
    assert np.isclose(Piece((Track(notes, 0, False, ""),)).voices[0], counts.sum() / np.count_nonzero(counts))


PLAYED = st.tuples(st.floats(0, 9, width=32, allow_subnormal=False), st.floats(0.125, 4), st.integers(60, 64))


@given(st.lists(st.lists(PLAYED, min_size=1, max_size=12), min_size=1, max_size=4))
def test_numbers_of_all_tracks_at_once_are_those_of_each_track(parts: list[list[tuple[float, float, int]]]) -> None:
    tracks = []
    for part in parts:
        onset, duration, pitch = (np.array(column) for column in zip(*part, strict=True))
        tracks.append(Track(Notes.of(onset, duration, pitch, pitch), 0, False, ""))
    piece = Piece(tuple(tracks))
    alone = [Piece((track,)) for track in tracks]
    assert piece.voices == [one.voices[0] for one in alone]
    assert piece.mean_pitches == [float(track.notes.pitch.mean()) for track in tracks]
    assert piece.duration == max(one.duration for one in alone)
    digests = []
    for track in tracks:
        ms = [np.rint(track.notes.onset.astype(float) * 1000), np.rint(track.notes.duration.astype(float) * 1000)]
        columns = [column.astype("<i8") for column in (*ms, track.notes.pitch, track.notes.velocity)]
        order = np.lexsort((columns[3], columns[1], columns[2], columns[0]))
        digests.append(hashlib.sha256(np.stack(columns)[:, order].tobytes()).digest())
    assert piece.piece_id == hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]
