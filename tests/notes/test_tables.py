"""Notes keep their arithmetic; NoteTables finds the notes that were written, across files and row groups."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.notes import writer
from timbreflow.notes.pieces import Piece, Track
from timbreflow.notes.tables import SCHEMAS, Notes, NoteTables, table_file
from timbreflow.notes.writer import PartRows, TableWriter

# symusic's library switches tiny numbers off for the whole process, which hypothesis would refuse to overlook.
seconds = st.floats(0, 60, width=32, allow_subnormal=False)
note = st.tuples(seconds, st.floats(0.03125, 10, width=32), st.integers(0, 127), st.integers(1, 127))
many_notes = st.lists(note, max_size=40).map(lambda rows: Notes.of(*(zip(*rows, strict=True) if rows else ([],) * 4)))


def random_piece(seed: int, n_tracks: int = 3, n_notes: int = 50) -> Piece:
    """A piece of random notes."""
    generator = np.random.default_rng(seed)
    tracks = []
    for number in range(n_tracks):
        columns = (
            generator.uniform(0, 30, n_notes),
            generator.uniform(0.1, 2, n_notes),
            generator.integers(30, 90, n_notes),
            generator.integers(1, 128, n_notes),
        )
        tracks.append(Track(Notes.of(*columns), number, False, f"part {number}"))
    return Piece(tuple(tracks))


def rows(*pieces: Piece, first: int = 0) -> PartRows:
    """Rows of pieces whose paths are numbers."""
    part = PartRows()
    for number, piece in enumerate(pieces, start=first):
        part.add_piece("a", f"{number}.mid", piece)
    return part


def _plain(part: PartRows) -> dict[str, pa.Table]:
    """Tables as they come back from the files of a part."""
    return {name: table.cast(SCHEMAS[name]) for name, table in part.tables().items()}


@given(many_notes, seconds, st.floats(0.125, 20))
def test_window_holds_what_begins_in_it_and_ends_in_it(notes: Notes, start: float, length: float) -> None:
    window = notes.window(start, length)
    assert np.all((window.onset >= 0) & (window.onset < length))
    assert np.all(window.onset + window.duration <= length + 1e-5)
    assert np.all(window.duration > 0)
    relative = notes.onset.astype(np.float64) - start
    assert len(window) == np.sum((relative.astype(np.float32) >= 0) & (relative.astype(np.float32) < length))


@given(many_notes, st.integers(-24, 24))
def test_transposing_there_and_back_keeps_all_but_the_notes_that_left(notes: Notes, semitones: int) -> None:
    moved = notes.transposed(semitones)
    inside = (notes.pitch.astype(int) + semitones >= 0) & (notes.pitch.astype(int) + semitones <= 127)
    np.testing.assert_array_equal(moved.transposed(-semitones).pitch, notes.pitch[inside])
    np.testing.assert_array_equal(moved.onset, notes.onset[inside])
    assert moved.pitch.dtype == np.uint8


@given(many_notes)
def test_piano_roll_marks_each_note_and_nothing_else(notes: Notes) -> None:
    roll = notes.piano_roll(100, 0.25)
    expected = np.zeros((128, 100), bool)
    for onset, duration, pitch in zip(notes.onset, notes.duration, notes.pitch, strict=True):
        first = int(np.rint(onset / 0.25))
        end = max(int(np.rint((float(onset) + float(duration)) / 0.25)), first + 1)
        expected[pitch, first:end] = True
    np.testing.assert_array_equal(roll, expected)


def test_short_note_between_two_frames_is_not_lost() -> None:
    assert Notes.of([0.3], [0.01], [60], [80]).piano_roll(4, 0.5)[60].tolist() == [False, True, False, False]


def test_written_tables_are_read_back_across_files_and_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_ROW_GROUP", 70)  # smaller than a piece, so tracks cross the borders
    pieces = [random_piece(seed, n_tracks=seed % 4 + 1) for seed in range(9)]
    with TableWriter(tmp_path, notes_per_file=400) as out:
        for number, piece in enumerate(pieces):
            out.add(_plain(rows(piece, first=number)))
        last = PartRows()
        last.add_reject("a", "bad.mid", "broken", "it is text.")
        out.add(_plain(last))
    assert len(list(tmp_path.glob("notes-*.parquet"))) > 1
    tables = NoteTables.read(tmp_path)
    assert tables.pieces["path"].tolist() == [f"{number}.mid" for number in range(9)]
    for piece in pieces:
        for number, track in enumerate(piece.tracks):
            notes = tables.notes(piece.piece_id, number)
            for field in ("onset", "duration", "pitch", "velocity"):
                np.testing.assert_array_equal(getattr(notes, field), getattr(track.notes, field))
    assert tables.tracks["n_notes"].sum() == tables.pieces["n_notes"].sum() == sum(piece.n_notes for piece in pieces)
    rejects = [pd.read_parquet(path) for path in tmp_path.glob("rejects-*.parquet")]
    assert pd.concat(rejects)["reason"].tolist() == ["broken"]
    with pytest.raises(KeyError):
        tables.notes(pieces[0].piece_id, 99)


def test_small_memory_for_notes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_ROW_GROUP", 64)
    monkeypatch.setattr(NoteTables, "_KEPT_GROUPS", 2)
    piece = random_piece(5, n_tracks=6)
    with TableWriter(tmp_path) as out:
        out.add(_plain(rows(piece)))
    tables = NoteTables.read(tmp_path)
    for number in (0, 5, 2, 5, 0):
        np.testing.assert_array_equal(tables.notes(piece.piece_id, number).onset, piece.tracks[number].notes.onset)


def test_written_schemas_are_the_contract(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    rows(random_piece(1)).write(tmp_path / "part")
    (tmp_path / "empty").mkdir()
    PartRows().write(tmp_path / "empty")
    with TableWriter(tmp_path) as out:
        out.add(_plain(rows(random_piece(1))))
    for folder in (tmp_path, tmp_path / "part", tmp_path / "empty"):
        for name, schema in SCHEMAS.items():
            assert pq.read_schema(table_file(folder, name, 0)).equals(schema)


def test_adopted_parts_keep_their_place_and_their_bytes(tmp_path: Path) -> None:
    pieces = [random_piece(seed) for seed in range(5)]
    parts = [tmp_path / name for name in ("one", "two")]
    for folder, held in zip(parts, (pieces[1:3], pieces[4:]), strict=True):
        folder.mkdir()
        rows(*held).write(folder)
    (tmp_path / "out").mkdir()
    with TableWriter(tmp_path / "out") as out:
        out.add(_plain(rows(pieces[0])))
        out.adopt(parts[0])
        out.add(_plain(rows(pieces[3])))
        out.adopt(parts[1])
    tables = NoteTables.read(tmp_path / "out")
    assert tables.pieces["piece_id"].tolist() == [piece.piece_id for piece in pieces]
    for piece in pieces:
        for number, track in enumerate(piece.tracks):
            np.testing.assert_array_equal(tables.notes(piece.piece_id, number).onset, track.notes.onset)
    assert table_file(tmp_path / "out", "notes", 3).read_bytes() == table_file(parts[1], "notes", 0).read_bytes()


def test_equal_bytes_for_equal_pieces(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with TableWriter(tmp_path / name) as out:
            out.add(_plain(rows(random_piece(1))))
    for name in SCHEMAS:
        one, two = (table_file(tmp_path / folder, name, 0).read_bytes() for folder in ("one", "two"))
        assert one == two


def test_missing_and_damaged_tables_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="holds no note tables"):
        NoteTables.read(tmp_path)
    with TableWriter(tmp_path) as out:
        out.add(_plain(rows(random_piece(1))))
    tables = NoteTables.read(tmp_path)
    table_file(tmp_path, "notes", 0).write_bytes(b"not parquet")
    with pytest.raises(TimbreflowError, match="notes-00000"):
        tables.notes(tables.pieces["piece_id"][0], 0)
    table_file(tmp_path, "tracks", 0).write_bytes(table_file(tmp_path, "pieces", 0).read_bytes())
    with pytest.raises(TimbreflowError, match="columns"):
        NoteTables.read(tmp_path)
