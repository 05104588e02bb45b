"""The note tables: what the rest of timbreflow knows of a piece of music.

A folder of note tables holds `{pieces,tracks,notes,rejects}-NNNNN.parquet`. A piece and all its notes lie in files of
one number, so one number is a unit that can be made, and read, alone.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from timbreflow.errors import TimbreflowError

if TYPE_CHECKING:  # processes that read music start in two thirds of the time without it
    import pandas as pd

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
    [  # never null, which makes writing them take two thirds of the time
        pa.field("piece_id", pa.string(), nullable=False),
        pa.field("track", pa.int16(), nullable=False),
        pa.field("onset", pa.float32(), nullable=False),  # s
        pa.field("duration", pa.float32(), nullable=False),  # s
        pa.field("pitch", pa.uint8(), nullable=False),
        pa.field("velocity", pa.uint8(), nullable=False),
    ]
)
REJECTS = pa.schema([("source", pa.string()), ("path", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
SCHEMAS: dict[str, pa.Schema] = {"pieces": PIECES, "tracks": TRACKS, "notes": NOTES, "rejects": REJECTS}


def table_file(folder: Path, table: str, number: int) -> Path:
    """Path of one table file, such as `folder/notes-00003.parquet`."""
    return folder / f"{table}-{number:05d}.parquet"


def parquet_source(path: Path) -> Path | BinaryIO:
    """What pyarrow can read: it takes names of files for UTF-8, and where one is not, the open file stands for it."""
    return path if os.fsdecode(path).isprintable() else open(path, "rb")


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
        """Number of notes."""
        return len(self.onset)

    @classmethod
    def of(
        cls,
        onset: Sequence[float] | np.ndarray,
        duration: Sequence[float] | np.ndarray,
        pitch: Sequence[int] | np.ndarray,
        velocity: Sequence[int] | np.ndarray,
    ) -> "Notes":
        """Notes from plain sequences in any order: cast to the types above and sorted."""
        times = [np.asarray(values, np.float32) for values in (onset, duration)]
        columns = times + [np.asarray(values, np.uint8) for values in (pitch, velocity)]
        order = np.lexsort((columns[3], columns[1], columns[2], columns[0]))
        return cls(*(column[order] for column in columns))

    @classmethod
    def joined(cls, parts: "Iterable[Notes]") -> "Notes":
        """The notes of several, one behind the other; a single one is not copied."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls)))

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

    def played(self, *, tempo: float, velocity: int) -> "Notes":
        """The same notes `tempo` times as fast, with `velocity` added to each velocity (which stays in 1 to 127)."""
        louder = np.clip(self.velocity.astype(np.int64) + int(velocity), 1, 127).astype(np.uint8)
        onset, duration = ((time / np.float64(tempo)).astype(np.float32) for time in (self.onset, self.duration))
        return Notes(onset, duration, self.pitch, louder)

    def piano_roll(self, n_frames: int, seconds_per_frame: float, *, out: np.ndarray | None = None) -> np.ndarray:
        """Which pitches sound in which frame: [128, n_frames] bool.

        Frame `t` stands for the time `t * seconds_per_frame`, as the centre of a padded short-time spectrum does; a
        note covers the frames from its rounded onset up to its rounded end, and at least one. `out` is an array of that
        shape, all False, to write into.
        """
        first = np.rint(self.onset / seconds_per_frame).astype(np.int64)
        end = np.rint((self.onset.astype(np.float64) + self.duration) / seconds_per_frame).astype(np.int64)
        end = np.maximum(end, first + 1)
        roll = np.zeros((128, n_frames), bool) if out is None else out
        # A slice a note takes a tenth of the time of sums over all frames: a clip has some 40 notes.
        for pitch, begin, stop in zip(
            self.pitch.tolist(), np.maximum(first, 0).tolist(), np.maximum(end, 0).tolist(), strict=True
        ):
            roll[pitch, begin:stop] = True
        return roll


class NoteTables:
    """The tables of one folder: `pieces` and `tracks` in memory, notes read when asked for, row group by row group.

    Where the notes of a track lie follows from the counts in `pieces` and `tracks`, so that a random access costs one
    row group (about a millisecond) even in a collection of hundreds of files, and nothing once it is in memory.

    Attributes:
        pieces: one row a piece, columns of `PIECES`, in the order of the files.
        tracks: one row a track, columns of `TRACKS`, in the same order.
    """

    # Of 65,536 notes of 10 bytes: 260 MB at most, so that a process that walks all of Lakh stays small.
    _KEPT_GROUPS = 400

    def __init__(self, folder: Path, tables: "dict[int, tuple[pd.DataFrame, pd.DataFrame]]") -> None:
        """Use `NoteTables.read`; `tables` are pieces and tracks by number of their files."""
        import pandas as pd

        self.folder = folder
        self.pieces = pd.concat([pieces for pieces, _ in tables.values()], ignore_index=True)
        self.tracks = pd.concat([tracks for _, tracks in tables.values()], ignore_index=True)
        self._ranges: dict[tuple[str, int], tuple[int, int, int]] = {}  # -> (file number, first row, end)
        for number, (_, tracks) in tables.items():
            ends = np.cumsum(tracks["n_notes"].to_numpy(np.int64))
            columns = (tracks["piece_id"], tracks["track"], ends - tracks["n_notes"].to_numpy(np.int64), ends)
            for piece, track, first, end in zip(*columns, strict=True):
                self._ranges[piece, int(track)] = (number, int(first), int(end))
        self._promised = {number: int(tracks["n_notes"].sum()) for number, (_, tracks) in tables.items()}
        self._row_group_ends = cache(self._read_row_group_ends)
        self._row_group = lru_cache(maxsize=self._KEPT_GROUPS)(self._read_row_group)

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
        schemas = (("pieces", PIECES), ("tracks", TRACKS))
        tables = {}
        for number in numbers:
            pieces, tracks = (_read_table(table_file(folder, name, number), schema) for name, schema in schemas)
            tables[number] = (pieces, tracks)
        return cls(folder, tables)

    def notes(self, piece_id: str, track: int) -> Notes:
        """Notes of one track; they may be views of a larger table, so must not be written to.

        Raises:
            KeyError: there is no such piece or track.
            TimbreflowError: the file of its notes is missing or damaged.
        """
        number, first, end = self._ranges[piece_id, int(track)]
        ends = self._row_group_ends(number)
        groups = range(int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(ends, end)) + 1)
        start = 0 if groups[0] == 0 else int(ends[groups[0] - 1])
        joined = Notes.joined(self._row_group(number, group) for group in groups)  # one in nearly all cases
        return Notes(*(getattr(joined, column.name)[first - start : end - start] for column in fields(Notes)))

    def _read_row_group_ends(self, number: int) -> np.ndarray:
        path = table_file(self.folder, "notes", number)
        metadata = _open(path, NOTES).metadata
        ends = np.cumsum([metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)], dtype=np.int64)
        if (int(ends[-1]) if len(ends) else 0) != self._promised[number]:
            raise TimbreflowError(f"{path} does not hold the notes that tracks promise; collect the notes again.")
        return ends

    def _read_row_group(self, number: int, group: int) -> Notes:
        names = [column.name for column in fields(Notes)]
        path = table_file(self.folder, "notes", number)
        try:
            table = _open(path, NOTES).read_row_group(group, columns=names)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error
        return Notes(*(table.column(name).to_numpy() for name in names))


def _read_table(path: Path, schema: pa.Schema) -> "pd.DataFrame":
    try:
        return _open(path, schema).read().to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _open(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(parquet_source(path))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    if file.schema_arrow.names != schema.names:
        found = ", ".join(file.schema_arrow.names)
        raise TimbreflowError(f"{path} has the columns {found}, not those of this version; collect the notes again.")
    return file


def _damaged(path: Path, error: Exception) -> TimbreflowError:
    return TimbreflowError(f"{path} cannot be read as Parquet ({error}); collect the notes again.")
