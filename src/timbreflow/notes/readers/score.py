"""How a written score is played: quarters become seconds, dynamics become velocities.

Scores name neither exactly, so the reading is plain and the same on every machine: every note lasts as long as it is
written, repeats are not taken, and the velocity is that of the last dynamic mark plus a gentle metrical accent (first
beat of a measure +8, other beats +2, between the beats -4), so that velocities are not all equal and say something
about the music.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from timbreflow.notes.tables import Notes

DEFAULT_TEMPO = 100.0
"""Quarters per minute where a score names no tempo."""

DEFAULT_VELOCITY = 80
"""Velocity of an unmarked note (mezzo-forte)."""

STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
"""Semitones of the natural notes above C."""

# Velocities of the marks as common notation programs play them.
MARKS: dict[str, int] = {
    "pppp": 24, "ppp": 32, "pp": 42, "p": 54, "mp": 67, "mf": 80, "f": 92, "ff": 104, "fff": 114, "ffff": 122,
    "sf": 104, "sfz": 104, "fz": 104, "rf": 100, "rfz": 100, "fp": 92, "sfp": 92,
}  # fmt: skip

_SLOWEST, _FASTEST = 10.0, 600.0  # quarters per minute; marks outside are slips of the pen


@dataclass(frozen=True)
class WrittenNote:
    """A note as written: times in quarters from the start of the piece, MIDI pitch, velocity 1 to 127."""

    onset: float
    duration: float
    pitch: int
    velocity: int

    def until(self, end: float) -> "WrittenNote":
        """The same note tied to another one, that ends at `end`."""
        return WrittenNote(self.onset, end - self.onset, self.pitch, self.velocity)


def accented(velocity: float, beat: float) -> int:
    """Velocity of a note that begins `beat` quarters into its measure, within 1 to 127."""
    if beat < 1e-6:
        accent = 8
    elif abs(beat - round(beat)) < 1e-6:
        accent = 2
    else:
        accent = -4
    return int(min(max(round(velocity) + accent, 1), 127))


class TempoMap:
    """Seconds of a position in quarters.

    Args:
        marks: (position in quarters, quarters per minute) in any order; of two at one position the later one counts.
            Until the first one, and without any, `DEFAULT_TEMPO` holds; marks that are not a sane tempo are ignored.
    """

    def __init__(self, marks: Sequence[tuple[float, float]]) -> None:
        tempo = {0.0: DEFAULT_TEMPO}
        tempo.update(
            (position, value)
            for position, value in sorted(marks, key=lambda mark: mark[0])
            if math.isfinite(position) and position >= 0 and _SLOWEST <= value <= _FASTEST
        )
        self._positions = np.array(list(tempo))
        self._seconds_per_quarter = 60.0 / np.array(list(tempo.values()))
        steps = np.diff(self._positions) * self._seconds_per_quarter[:-1]
        self._seconds = np.concatenate([[0.0], np.cumsum(steps)])

    def seconds(self, quarters: np.ndarray) -> np.ndarray:
        """Times in s of positions in quarters: [n] float64 -> [n] float64."""
        index = np.searchsorted(self._positions, quarters, side="right") - 1
        return self._seconds[index] + (quarters - self._positions[index]) * self._seconds_per_quarter[index]


def played(written: Sequence[WrittenNote], tempo: TempoMap) -> Notes:
    """Notes in seconds; those without length or outside of MIDI's 0 to 127 are dropped."""
    kept = [note for note in written if note.duration > 0 and 0 <= note.pitch <= 127]
    onset = np.array([note.onset for note in kept], np.float64)
    end = onset + np.array([note.duration for note in kept], np.float64)
    start = tempo.seconds(onset)
    return Notes.of(start, tempo.seconds(end) - start, [note.pitch for note in kept], [note.velocity for note in kept])
