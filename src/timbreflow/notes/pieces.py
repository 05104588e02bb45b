"""A piece of music as every reader gives it, before it becomes rows of the note tables."""

import hashlib
from dataclasses import dataclass, field
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

    Attributes:
        tracks: at least one.
        joined: the notes of all tracks, track after track, where the reader has them so.
    """

    tracks: tuple[Track, ...]
    joined: Notes | None = field(default=None, repr=False, compare=False)

    @cached_property
    def notes(self) -> Notes:
        """The notes of all tracks, track after track."""
        if self.joined is not None:
            return self.joined
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
        return list(accumulate(self._counts))

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
        sums = np.add.reduceat(self._whole_numbers[2], self._starts)
        return [total / count for total, count in zip(sums.tolist(), self._counts, strict=True)]

    @property
    def voices(self) -> list[float]:
        """Mean number of notes sounding while any sounds, of each track."""
        onset = self.notes.onset.astype(np.float64)
        end = onset + self.notes.duration
        # Notes are sorted by onset, so a stretch of sound ends where the latest end so far lies before the next onset.
        latest = np.empty_like(end)
        for first, after in zip(self._starts, self.ends, strict=True):
            np.maximum.accumulate(end[first:after], out=latest[first:after])
        before = np.empty_like(end)
        before[1:] = latest[:-1]
        before[self._starts] = 0.0
        covered = latest - before
        np.subtract(onset, before, out=before)
        covered -= np.maximum(before, 0.0, out=before)
        end -= onset
        sounding, played = (np.add.reduceat(values, self._starts).tolist() for values in (covered, end))
        return [sum_ / time if time > 0 else 1.0 for sum_, time in zip(played, sounding, strict=True)]

    @cached_property
    def piece_id(self) -> str:
        """First 16 hexadecimal digits of the sha256 of the notes.

        Times count in whole ms, and tracks in an order of their own; file name, titles, programs and the order of
        tracks do not count. Copies of one piece must share an id, or they could end up on both sides of a split.
        """
        rows, ends = self._whole_numbers, np.array(self.ends)
        before_smaller = _before_smaller(rows)
        numbers = np.searchsorted(ends, before_smaller, side="right")
        unordered = set(numbers[before_smaller + 1 < ends[numbers]].tolist())
        digests = []
        for number, (first, after) in enumerate(zip(self._starts, self.ends, strict=True)):
            track = rows[:, first:after]
            if number in unordered:
                track = track[:, np.lexsort((track[3], track[1], track[2], track[0]))]
            digests.append(hashlib.sha256(track.tobytes()).digest())
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]

    @cached_property
    def _whole_numbers(self) -> np.ndarray:
        """Onset and duration in ms, pitch, velocity of all notes: [4, n] little-endian int64."""
        rows = np.empty((4, len(self.notes)), "<i8")
        for row, seconds in zip(rows, (self.notes.onset, self.notes.duration), strict=False):
            milliseconds = seconds.astype(np.float64)
            milliseconds *= 1000
            row[:] = np.rint(milliseconds, out=milliseconds)
        rows[2], rows[3] = self.notes.pitch, self.notes.velocity
        return rows

    @property
    def _counts(self) -> list[int]:
        return [len(track.notes) for track in self.tracks]

    @property
    def _starts(self) -> list[int]:
        return [0, *self.ends[:-1]]


def _before_smaller(rows: np.ndarray) -> np.ndarray:
    """Which notes stand before a smaller one, for times in whole ms: the last of most tracks, and few others.

    Args:
        rows: [4, n] onset, duration, pitch, velocity.
    """
    key = rows[0] << 7
    key |= rows[2]
    at = np.flatnonzero(key[1:] <= key[:-1])
    first, second = rows[:, at], rows[:, at + 1]
    smaller = (second[1] << 7 | second[3]) < (first[1] << 7 | first[3])
    return at[(key[at + 1] < key[at]) | smaller]
