"""What of a file is still read: the limits that every reader keeps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from timbreflow.notes.pieces import Piece, Reject, Track
from timbreflow.notes.tables import Notes


@dataclass(frozen=True)
class ReadLimits:
    """Limits of one file.

    Attributes:
        max_bytes: size of the file, or of the score inside a compressed one.
        max_ticks: last tick of a MIDI file (pretty_midi refuses over 10^7).
        max_duration: end of the last note, in s.
        max_notes: of all tracks.
        min_notes: of all tracks that are not drums.
    """

    max_bytes: int
    max_ticks: int
    max_duration: float
    max_notes: int
    min_notes: int

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


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of a process that reads files.

    Attributes:
        file: of one file.
        max_seconds: of work to read one file.
        max_memory: to read files, in bytes, beside what the process has before.
    """

    file: ReadLimits
    max_seconds: float
    max_memory: int
