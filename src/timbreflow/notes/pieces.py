"""A piece of music as every reader gives it, before it becomes rows of the note tables."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

import numpy as np

from timbreflow.notes.tables import Notes

RejectReason = Literal[
    "too_large",
    "too_long",
    "too_many_ticks",
    "too_slow",
    "no_notes",
    "too_few_notes",
    "broken",
    "drums_only",
    "duplicate",
    "left_out",
]


class Reject(Exception):
    """A file that gives no piece, and why; never an error of the run.

    Args:
        reason: one of the codes of `RejectReason`.
        detail: one sentence for a person.
    """

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(reason, detail)  # as a process hands it to another
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Track:
    """One part of a piece: the notes of one instrument.

    Attributes:
        notes: at least one note.
        program: General MIDI program, 0 to 127; -1 where the file names none.
        is_drum: whether pitches stand for drums.
        name: as the file has it.
    """

    notes: Notes
    program: int
    is_drum: bool
    name: str


@dataclass(frozen=True)
class Piece:
    """All tracks of one file, at least one.

    Numbers of tracks are worked out for all of them at once: a file of Lakh has ten short tracks, and each call of
    numpy costs a microsecond, a fiftieth of what parsing one of them does.
    """

    tracks: tuple[Track, ...]

    @cached_property
    def notes(self) -> Notes:
        """The notes of all tracks, track after track."""
        parts = [track.notes for track in self.tracks]
        return Notes(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("onset", "duration", "pitch", "velocity")
            )
        )

    @cached_property
    def ends(self) -> list[int]:
        """Where each track ends in `notes`."""
        return list(accumulate(len(track.notes) for track in self.tracks))

    @property
    def n_notes(self) -> int:
        """Number of notes of all tracks."""
        return self.ends[-1]

    @cached_property
    def duration(self) -> float:
        """End of the last note, in s."""
        return float((self.notes.onset + self.notes.duration).max())

    @property
    def mean_pitches(self) -> list[float]:
        """Mean pitch of each track."""
        sums = np.add.reduceat(self.notes.pitch, self._starts, dtype=np.int64)
        return [int(total) / count for total, count in zip(sums, np.diff(self.ends, prepend=0), strict=True)]

    @property
    def voices(self) -> list[float]:
        """Mean number of notes sounding while any sounds, of each track."""
        onset = self.notes.onset.astype(np.float64)
        end = onset + self.notes.duration
        # Notes are sorted by onset, so a stretch of sound ends where the latest end so far lies before the next onset.
        latest = np.empty_like(end)
        for first, after in zip(self._starts, self.ends, strict=True):
            np.maximum.accumulate(end[first:after], out=latest[first:after])
        before = np.concatenate([[0.0], latest[:-1]])
        before[self._starts] = 0.0
        covered = (latest - before) - np.maximum(onset - before, 0.0)
        sounding, played = (np.add.reduceat(values, self._starts) for values in (covered, end - onset))
        return [float(sum_ / time) if time > 0 else 1.0 for sum_, time in zip(played, sounding, strict=True)]

    @cached_property
    def piece_id(self) -> str:
        """First 16 hexadecimal digits of the sha256 of the notes.

        Times count in whole ms, and tracks in an order of their own; file name, titles, programs and the order of
        tracks do not count. Copies of one piece must share an id, or they could end up on both sides of a split.
        """
        onset = np.rint(self.notes.onset.astype(np.float64) * 1000).astype("<i8")
        duration = np.rint(self.notes.duration.astype(np.float64) * 1000).astype("<i8")
        columns = (onset, duration, self.notes.pitch.astype("<i8"), self.notes.velocity.astype("<i8"))
        # Nearly always they are in order already: only rounding can put a note before its neighbour.
        steps, smaller = np.diff(onset << 7 | columns[2]), np.diff(duration << 7 | columns[3])
        wrong = np.flatnonzero((steps < 0) | ((steps == 0) & (smaller < 0)))
        digests = []
        for first, after in zip(self._starts, self.ends, strict=True):
            rows = [column[first:after] for column in columns]
            if np.searchsorted(wrong, first) < np.searchsorted(wrong, after - 1):
                order = np.lexsort((rows[3], rows[1], rows[2], rows[0]))
                rows = [row[order] for row in rows]
            digest = hashlib.sha256()
            for row in rows:
                digest.update(np.ascontiguousarray(row).data)
            digests.append(digest.digest())
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]

    @property
    def _starts(self) -> list[int]:
        return [0, *self.ends[:-1]]
