"""A piece of music as every reader gives it, before it becomes rows of the note tables."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from timbreflow.notes.tables import Notes

RejectReason = Literal[
    "too_large",
    "too_long",
    "too_many_ticks",
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
        super().__init__(f"{reason}: {detail}")
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

    @property
    def voices(self) -> float:
        """Mean number of notes sounding while any sounds."""
        onset = self.notes.onset.astype(np.float64)
        end = onset + self.notes.duration
        # Notes are sorted by onset, so a stretch of sound ends where the latest end so far lies before the next onset.
        latest = np.maximum.accumulate(end)
        covered = np.diff(latest, prepend=0.0) - np.maximum(onset - np.concatenate([[0.0], latest[:-1]]), 0.0)
        sounding = float(covered.sum())
        return float((end - onset).sum()) / sounding if sounding > 0 else 1.0


@dataclass(frozen=True)
class Piece:
    """All tracks of one file, at least one."""

    tracks: tuple[Track, ...]

    @property
    def n_notes(self) -> int:
        """Number of notes of all tracks."""
        return sum(len(track.notes) for track in self.tracks)

    @property
    def duration(self) -> float:
        """End of the last note, in s."""
        return max(float((track.notes.onset + track.notes.duration).max()) for track in self.tracks)

    @property
    def piece_id(self) -> str:
        """First 16 hexadecimal digits of the sha256 of the notes.

        Times count in whole ms, and tracks in an order of their own; file name, titles, programs and the order of
        tracks do not count. Copies of one piece must share an id, or they could end up on both sides of a split.
        """
        digests = sorted(_digest(track.notes) for track in self.tracks)
        return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _digest(notes: Notes) -> bytes:
    onset = np.rint(notes.onset.astype(np.float64) * 1000).astype("<i8")
    duration = np.rint(notes.duration.astype(np.float64) * 1000).astype("<i8")
    columns = (onset, duration, notes.pitch.astype("<i8"), notes.velocity.astype("<i8"))
    order = np.lexsort((columns[3], columns[1], columns[2], columns[0]))
    return hashlib.sha256(np.stack(columns)[:, order].tobytes()).digest()
