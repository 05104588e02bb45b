"""Writing note tables: rows of many files to one part, and parts to the numbered files of a collection."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from timbreflow.files import link_or_copy
from timbreflow.notes.pieces import Piece
from timbreflow.notes.tables import NOTES, SCHEMAS, table_file

NOTES_PER_FILE = 2_000_000  # some 15 MB on disk
_ROW_GROUP = 65_536  # what one random access reads, about a millisecond
# A third of the time of pyarrow's defaults: times hardly repeat, so need no dictionary; rows are found by number, so
# nobody asks for statistics; lz4 takes half the time of zstd for a fifth more bytes.
_OF_A_PART: dict[str, Any] = {
    "use_dictionary": ["piece_id"],
    "write_statistics": False,
    "compression": "lz4",
    "store_schema": False,  # or the dictionary of ids would be read back as such, not as text
}
_NOTES_OF_A_PART = {"column_encoding": {"onset": "BYTE_STREAM_SPLIT", "duration": "BYTE_STREAM_SPLIT"}}


class PartRows:
    """Rows of some files, gathered as columns: Arrow tables of one file each would cost more than parsing it."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[Any, ...]]] = {"pieces": [], "tracks": [], "rejects": []}
        self._pieces: list[Piece] = []

    def add_piece(self, source: str, path: str, piece: Piece) -> None:
        """Append the rows of one piece."""
        piece_id = piece.piece_id
        self._pieces.append(piece)
        self._rows["pieces"].append((piece_id, source, path, piece.duration, len(piece.tracks), piece.n_notes))
        numbers = zip(piece.tracks, piece.mean_pitches, piece.voices, strict=True)
        self._rows["tracks"] += [
            (piece_id, number, track.program, track.is_drum, track.name, len(track.notes), pitch, voices)
            for number, (track, pitch, voices) in enumerate(numbers)
        ]

    def add_reject(self, source: str, path: str, reason: str, detail: str) -> None:
        """Append the row of one rejected file."""
        self._rows["rejects"].append((source, path, reason, detail))

    def tables(self) -> dict[str, pa.Table]:
        """The four tables."""
        tables = {
            name: pa.table(
                [pa.array([row[column] for row in rows], field.type) for column, field in enumerate(SCHEMAS[name])],
                schema=SCHEMAS[name],
            )
            for name, rows in self._rows.items()
        }
        return tables | {"notes": self._notes()}

    def write(self, folder: Path) -> None:
        """Write the tables as number 0 of a folder that exists and holds none."""
        for name, table in self.tables().items():
            options = _NOTES_OF_A_PART if name == "notes" else {}
            # pyarrow takes names of files for UTF-8, which they need not be; an open file has none.
            with open(table_file(folder, name, 0), "wb") as file:
                pq.write_table(table, file, row_group_size=_ROW_GROUP, **_OF_A_PART, **options)

    def _notes(self) -> pa.Table:
        """Notes of all pieces; the ids are a dictionary, which Parquet knows as text."""
        if not self._pieces:
            return NOTES.empty_table()
        ids = pa.array([row[0] for row in self._rows["pieces"]], pa.string())
        numbers = np.repeat(np.arange(len(ids), dtype=np.int32), [piece.n_notes for piece in self._pieces])
        tracks = np.concatenate([np.arange(len(piece.tracks), dtype=np.int16) for piece in self._pieces])
        sizes = [row[5] for row in self._rows["tracks"]]
        columns = [
            np.concatenate([getattr(piece.notes, name) for piece in self._pieces])
            for name in ("onset", "duration", "pitch", "velocity")
        ]
        arrays = [pa.DictionaryArray.from_arrays(numbers, ids), np.repeat(tracks, sizes), *columns]
        return pa.table(arrays, schema=NOTES.set(0, NOTES.field(0).with_type(arrays[0].type)))


class TableWriter:
    """Appends tables to the numbered files of a folder, beginning a new number when one is full.

    Used as a context manager; on leaving it without an error, the last files are written, and an empty folder gets one
    set of empty tables.

    Args:
        folder: exists, and holds no tables yet.
        notes_per_file: a file is closed once it holds as many notes.
    """

    def __init__(self, folder: Path, *, notes_per_file: int = NOTES_PER_FILE) -> None:
        self._folder = folder
        self._notes_per_file = notes_per_file
        self._number = 0
        self._n_notes = 0
        self._waiting: dict[str, list[pa.Table]] = {name: [] for name in SCHEMAS}

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and (self._number == 0 or self._has_rows()):
            self._write()

    def add(self, tables: dict[str, pa.Table]) -> None:
        """Append rows of the four tables; the notes of a piece come with the piece."""
        for name, table in tables.items():
            self._waiting[name].append(table)
        self._n_notes += len(tables["notes"])
        if self._n_notes >= self._notes_per_file:
            self._write()

    def adopt(self, folder: Path) -> None:
        """Take over the tables of number 0 of another folder as they are, under a number of their own."""
        if self._has_rows():
            self._write()
        for name in SCHEMAS:
            link_or_copy(table_file(folder, name, 0), table_file(self._folder, name, self._number))
        self._number += 1

    def _has_rows(self) -> bool:
        return any(len(table) for part in self._waiting.values() for table in part)

    def _write(self) -> None:
        for name, schema in SCHEMAS.items():
            table = pa.concat_tables([schema.empty_table(), *self._waiting[name]])
            with open(table_file(self._folder, name, self._number), "wb") as file:
                pq.write_table(table, file, compression="zstd", row_group_size=_ROW_GROUP)
            self._waiting[name] = []
        self._number += 1
        self._n_notes = 0
