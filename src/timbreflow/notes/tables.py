"""The note tables: what the rest of timbreflow knows of a piece of music.

A folder of note tables holds `{pieces,tracks,notes,rejects}-NNNNN.parquet`. A piece and all its notes lie in files of
one number, so one number is a unit that can be made, and read, alone.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from timbreflow.errors import TimbreflowError

PIECES = pa.schema(
    [
        ("piece_id", pa.string()),  # first 16 hexadecimal digits of the sha256 of the piece's notes
        ("source", pa.string()),
        ("path", pa.string()),
        ("duration", pa.float32()),  # s
        ("n_tracks", pa.int32()),
        ("n_notes", pa.int32()),
    ]
)
TRACKS = pa.schema(
    [
        ("piece_id", pa.string()),
        ("track", pa.int16()),
        ("program", pa.int16()),  # -1: the file names none
        ("is_drum", pa.bool_()),
        ("name", pa.string()),
        ("n_notes", pa.int32()),
        ("mean_pitch", pa.float32()),
        ("voices", pa.float32()),  # mean number of notes sounding while any sounds
    ]
)
NOTES = pa.schema(
    [
        ("piece_id", pa.string()),
        ("track", pa.int16()),
        ("onset", pa.float32()),  # s
        ("duration", pa.float32()),  # s
        ("pitch", pa.uint8()),
        ("velocity", pa.uint8()),
    ]
)
REJECTS = pa.schema([("source", pa.string()), ("path", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
SCHEMAS: dict[str, pa.Schema] = {"pieces": PIECES, "tracks": TRACKS, "notes": NOTES, "rejects": REJECTS}


def table_file(folder: Path, table: str, number: int) -> Path:
    """Path of one table file, such as `folder/notes-00003.parquet`."""
    return folder / f"{table}-{number:05d}.parquet"


@dataclass(frozen=True, eq=False)
class Notes:
    """Notes of one track, sorted by (onset, pitch).

    Attributes:
        onset: [n] float32, in s.
        duration: [n] float32, in s.
        pitch: [n] uint8, MIDI note number, 0 to 127.
        velocity: [n] uint8, 1 to 127.
    """

    onset: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray

    def __len__(self) -> int:
        return len(self.onset)

    @classmethod
    def of(
        cls, onset: Sequence[float], duration: Sequence[float], pitch: Sequence[int], velocity: Sequence[int]
    ) -> "Notes":
        """Notes from plain sequences in any order: cast to the types above and sorted."""
        columns = (
            np.asarray(onset, np.float32),
            np.asarray(duration, np.float32),
            np.asarray(pitch, np.uint8),
            np.asarray(velocity, np.uint8),
        )
        order = np.lexsort((columns[3], columns[1], columns[2], columns[0]))
        return cls(*(column[order] for column in columns))

    def window(self, start: float, length: float) -> "Notes":
        """Notes that begin in `[start, start + length)`, with onsets relative to `start`.

        Durations end at the window's end at the latest. A note that began before the window is left out: its attack,
        which carries much of the timbre, would be missing.

        Args:
            start: in s.
            length: in s.
        """
        onset = (self.onset.astype(np.float64) - float(start)).astype(np.float32)
        inside = (onset >= 0) & (onset < length)
        onset = onset[inside]
        duration = np.minimum(self.duration[inside], np.float32(length) - onset)
        return Notes(onset, duration, self.pitch[inside], self.velocity[inside])

    def transposed(self, semitones: int) -> "Notes":
        """The same notes `semitones` higher; those that leave 0 to 127 are dropped."""
        pitch = self.pitch.astype(np.int64) + int(semitones)
        kept = (pitch >= 0) & (pitch <= 127)
        return Notes(self.onset[kept], self.duration[kept], pitch[kept].astype(np.uint8), self.velocity[kept])

    def piano_roll(self, n_frames: int, seconds_per_frame: float) -> np.ndarray:
        """Which pitches sound in which frame: [128, n_frames] bool.

        Frame `t` stands for the time `t * seconds_per_frame`, as the centre of a padded short-time spectrum does; a
        note covers the frames from its rounded onset up to its rounded end, and at least one.
        """
        first = np.rint(self.onset / seconds_per_frame).astype(np.int64)
        end = np.rint((self.onset.astype(np.float64) + self.duration) / seconds_per_frame).astype(np.int64)
        end = np.maximum(end, first + 1)
        steps = np.zeros((128, n_frames + 1), np.int32)
        np.add.at(steps, (self.pitch, np.clip(first, 0, n_frames)), 1)
        np.add.at(steps, (self.pitch, np.clip(end, 0, n_frames)), -1)
        return np.cumsum(steps, axis=1)[:, :n_frames] > 0


@dataclass(frozen=True)
class _NoteFile:
    """The notes of one file with the range of rows of each (piece, track)."""

    notes: Notes
    ranges: dict[tuple[str, int], tuple[int, int]]


class NoteTables:
    """The tables of one folder: `pieces` and `tracks` in memory, notes read file by file when asked for.

    Attributes:
        pieces: one row a piece, columns of `PIECES`, in the order of the files.
        tracks: one row a track, columns of `TRACKS`.
    """

    # 10 bytes a note: 300 MB at most, so that a process that walks all of Lakh stays small.
    _KEPT_NOTES = 30_000_000

    def __init__(self, folder: Path, pieces: pd.DataFrame, tracks: pd.DataFrame, file_of_piece: dict[str, int]) -> None:
        self.folder = folder
        self.pieces = pieces
        self.tracks = tracks
        self._file_of_piece = file_of_piece
        self._files: OrderedDict[int, _NoteFile] = OrderedDict()

    @classmethod
    def read(cls, folder: Path) -> "NoteTables":
        """Read every `pieces-*.parquet` and `tracks-*.parquet` of a folder.

        Raises:
            TimbreflowError: the folder holds no note tables, or one of them is damaged.
        """
        folder = Path(folder)
        numbers = sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob("pieces-?????.parquet"))
        if not numbers:
            raise TimbreflowError(
                f"{folder} holds no note tables (pieces-*.parquet); run `timbreflow collect SOURCE --out {folder}`."
            )
        pieces = [_read_table(table_file(folder, "pieces", number), PIECES) for number in numbers]
        tracks = [_read_table(table_file(folder, "tracks", number), TRACKS) for number in numbers]
        file_of_piece = {
            piece: number
            for number, table in zip(numbers, pieces, strict=True)
            for piece in table.column("piece_id").to_pylist()
        }
        return cls(folder, pa.concat_tables(pieces).to_pandas(), pa.concat_tables(tracks).to_pandas(), file_of_piece)

    def notes(self, piece_id: str, track: int) -> Notes:
        """Notes of one track; a view of the file's columns, so it must not be written to.

        Raises:
            KeyError: there is no such piece or track.
        """
        file = self._file(self._file_of_piece[piece_id])
        first, end = file.ranges[piece_id, int(track)]
        notes = file.notes
        return Notes(
            notes.onset[first:end], notes.duration[first:end], notes.pitch[first:end], notes.velocity[first:end]
        )

    def _file(self, number: int) -> _NoteFile:
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        table = _read_table(table_file(self.folder, "notes", number), NOTES, read_dictionary=["piece_id"])
        pieces = table.column("piece_id").unify_dictionaries().combine_chunks()
        columns = {name: table.column(name).to_numpy() for name in ("track", "onset", "duration", "pitch", "velocity")}
        names = pieces.dictionary.to_pylist() if len(table) else []
        codes = pieces.indices.to_numpy() if len(table) else np.zeros(0, np.int32)
        changes = np.flatnonzero((np.diff(codes) != 0) | (np.diff(columns["track"]) != 0)) + 1
        starts = np.concatenate([[0], changes]) if len(table) else np.zeros(0, np.int64)
        ends = np.concatenate([changes, [len(table)]])
        ranges = {
            (names[codes[first]], int(columns["track"][first])): (int(first), int(end))
            for first, end in zip(starts, ends[: len(starts)], strict=True)
        }
        notes = Notes(columns["onset"], columns["duration"], columns["pitch"], columns["velocity"])
        self._files[number] = _NoteFile(notes, ranges)
        while len(self._files) > 1 and sum(len(file.notes) for file in self._files.values()) > self._KEPT_NOTES:
            self._files.popitem(last=False)
        return self._files[number]


def read_rejects(folder: Path) -> pd.DataFrame:
    """All `rejects-*.parquet` of a folder as one table, columns of `REJECTS`."""
    tables = [_read_table(path, REJECTS) for path in sorted(Path(folder).glob("rejects-?????.parquet"))]
    return pa.concat_tables([REJECTS.empty_table(), *tables]).to_pandas()


def _read_table(path: Path, schema: pa.Schema, *, read_dictionary: list[str] | None = None) -> pa.Table:
    try:
        table = pq.read_table(path, read_dictionary=read_dictionary)
    except (OSError, pa.ArrowInvalid) as error:
        raise TimbreflowError(f"{path} cannot be read as Parquet ({error}); collect the notes again.") from error
    if table.schema.names != schema.names:
        raise TimbreflowError(f"{path} has columns {table.schema.names}, not {schema.names}; collect the notes again.")
    return table
