"""Writing note tables: pieces go in one by one, files of a bounded size come out."""

from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from timbreflow.notes.pieces import Piece
from timbreflow.notes.tables import SCHEMAS, table_file

NOTES_PER_FILE = 2_000_000  # some 15 MB on disk
_ROW_GROUP = 65_536  # what one random access reads, about a millisecond


class TableWriter:
    """Appends whole tables to the numbered files of a folder, beginning a new number when one is full.

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
        if kind is None and (self._number == 0 or any(len(table) for part in self._waiting.values() for table in part)):
            self._write()

    def add(self, tables: dict[str, pa.Table]) -> None:
        """Append rows of the four tables; the notes of a piece come with the piece."""
        for name, table in tables.items():
            self._waiting[name].append(table)
        self._n_notes += len(tables["notes"]) if "notes" in tables else 0
        if self._n_notes >= self._notes_per_file:
            self._write()

    def _write(self) -> None:
        for name, schema in SCHEMAS.items():
            table = pa.concat_tables([schema.empty_table(), *self._waiting[name]])
            path = table_file(self._folder, name, self._number)
            pq.write_table(table, path, compression="zstd", row_group_size=_ROW_GROUP)
            self._waiting[name] = []
        self._number += 1
        self._n_notes = 0


def piece_tables(source: str, path: str, piece: Piece) -> dict[str, pa.Table]:
    """The rows of one piece in `pieces`, `tracks` and `notes`."""
    piece_id = piece.piece_id
    # Lists of columns rather than rows: some 30 times faster for the notes, which are many.
    pieces = [[piece_id], [source], [path], [piece.duration], [len(piece.tracks)], [piece.n_notes]]
    tracks = [
        [piece_id] * len(piece.tracks),
        range(len(piece.tracks)),
        [track.program for track in piece.tracks],
        [track.is_drum for track in piece.tracks],
        [track.name for track in piece.tracks],
        [len(track.notes) for track in piece.tracks],
        [float(track.notes.pitch.mean()) for track in piece.tracks],
        [track.voices for track in piece.tracks],
    ]
    numbers = np.repeat(np.arange(len(piece.tracks), dtype=np.int16), [len(track.notes) for track in piece.tracks])
    fields = ("onset", "duration", "pitch", "velocity")
    columns = [np.concatenate([getattr(track.notes, field) for track in piece.tracks]) for field in fields]
    notes = [pa.repeat(piece_id, piece.n_notes), numbers, *columns]
    return {
        name: pa.table(
            [pa.array(column, schema.type) for column, schema in zip(values, SCHEMAS[name], strict=True)],
            schema=SCHEMAS[name],
        )
        for name, values in (("pieces", pieces), ("tracks", tracks), ("notes", notes))
    }


def reject_table(source: str, path: str, reason: str, detail: str) -> dict[str, pa.Table]:
    """The row of one rejected file in `rejects`."""
    row = {"source": [source], "path": [path], "reason": [reason], "detail": [detail]}
    return {"rejects": pa.table(row, schema=SCHEMAS["rejects"])}
