"""A piece of music as every reader gives it, and what of a file is still read."""

import hashlib
import math
from collections.abc import Sequence
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
    "passed_over",
    "incomplete",
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
        remark: what of the file may be missing, as one sentence, though it was read.
    """

    tracks: tuple[Track, ...]
    joined: Notes | None = field(default=None, repr=False, compare=False)
    remark: str = ""

    @cached_property
    def notes(self) -> Notes:
        """The notes of all tracks, track after track."""
        if self.joined is not None:
            return self.joined
        return Notes.joined(track.notes for track in self.tracks)

    @cached_property
    def ends(self) -> list[int]:
        """Where each track ends in `notes`."""
        return list(accumulate(len(track.notes) for track in self.tracks))

    @property
    def n_notes(self) -> int:
        """Number of notes of all tracks."""
        return self.ends[-1]

    @property
    def duration(self) -> float:
        """End of the last note, in s."""
        return self._numbers[2]

    @property
    def mean_pitches(self) -> list[float]:
        """Mean pitch of each track."""
        return self._numbers[0]

    @property
    def voices(self) -> list[float]:
        """Mean number of notes sounding while any sounds, of each track."""
        return self._numbers[1]

    @cached_property
    def piece_id(self) -> str:
        """First 16 hexadecimal digits of the sha256 of the notes.

        Times count in whole ms, and tracks in an order of their own; file name, titles, programs and the order of
        tracks do not count. Copies of one piece must share an id, or they could end up on both sides of a split.
        """
        from timbreflow.notes.compiled import in_milliseconds

        notes = self.notes
        rows = in_milliseconds(notes.onset, notes.duration, notes.pitch, notes.velocity, np.array(self.ends))
        limits = [0, *self.ends]
        digests = [
            hashlib.sha256(rows[4 * begin : 4 * end].data).digest()
            for begin, end in zip(limits, self.ends, strict=False)
        ]
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]

    @cached_property
    def _numbers(self) -> tuple[list[float], list[float], float]:
        from timbreflow.notes.compiled import numbers_of_tracks

        notes = self.notes
        pitches, voices, last = numbers_of_tracks(notes.onset, notes.duration, notes.pitch, np.array(self.ends))
        return pitches.tolist(), voices.tolist(), last


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """Limits of one file, and of the process that reads it.

    Attributes:
        max_bytes: size of the file, or of what is inside a compressed one (Cífka et al. 2021 skip MIDI files over
            100 kB; scores are larger).
        max_ticks: last tick of a MIDI file (pretty_midi refuses over 10^7).
        max_duration: end of the last note, in s.
        max_notes: of all tracks.
        min_notes: of all tracks that are not drums.
        max_seconds: of work to read it (a good file takes a thousandth).
        max_memory: to read it, in bytes, beside what the process has before.
    """

    max_bytes: int
    max_ticks: int
    max_duration: float
    max_notes: int
    min_notes: int
    max_seconds: float
    max_memory: int

    def check_size(self, n_bytes: int) -> None:
        """Raise `Reject` for a file that is empty or over `max_bytes`."""
        if n_bytes == 0:
            raise Reject("broken", "it is empty.")
        if n_bytes > self.max_bytes:
            raise Reject("too_large", f"it has {n_bytes} bytes; the limit is {self.max_bytes}.")

    def check_piece(self, tracks: Sequence[Track], joined: Notes | None = None) -> Piece:
        """A piece of these tracks, or `Reject` where they are too few, too many or too long."""
        if not tracks:
            raise Reject("no_notes", "it holds no notes.")
        pitched = sum(len(track.notes) for track in tracks if not track.is_drum)
        if pitched == 0:
            raise Reject("drums_only", "all its notes are drums.")
        if pitched < self.min_notes:
            raise Reject("too_few_notes", f"it holds {pitched} notes beside drums; the least is {self.min_notes}.")
        piece = Piece(tuple(tracks), joined)
        if piece.n_notes > self.max_notes:
            raise Reject("too_large", f"it holds {piece.n_notes} notes; the limit is {self.max_notes}.")
        if not math.isfinite(piece.duration):
            raise Reject("broken", "a note of it never ends.")
        if piece.duration > self.max_duration:
            raise Reject("too_long", f"it lasts {piece.duration:.0f} s; the limit is {self.max_duration:.0f} s.")
        return piece
