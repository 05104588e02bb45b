"""The notes that a model hears: its piano roll, and the roll as MIDI."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file

THRESHOLD = 0.5
SHORTEST_FRAMES = 2
"""A pitch that is heard for less, 62 ms, is no note."""
VELOCITY = 80
"""Of all notes: a piano roll knows no loudness."""


class HeardNote(NamedTuple):
    """A note; onset and duration in s, MIDI pitch."""

    onset: float
    duration: float
    pitch: int


def joined(rolls: Iterable[np.ndarray], starts: Iterable[float], *, overlap: float) -> np.ndarray:
    """Rolls of overlapping chunks as one.

    Args:
        rolls: [128, T] each.
        starts: first frame of each in the whole, which need not be a whole one.
        overlap: frames that neighbours share; each gives half of them.
    """
    parts: list[np.ndarray] = []
    length = 0
    for roll, start in zip(rolls, starts, strict=False):
        first = round(start)
        kept = min(length, first + round(overlap / 2)) if parts else first
        if parts:
            parts[-1] = parts[-1][:, : parts[-1].shape[1] - (length - kept)]
        parts.append(roll[:, kept - first :])
        length = first + roll.shape[1]
    return np.concatenate(parts, axis=1)


def notes_of(roll: np.ndarray, seconds_per_frame: float) -> list[HeardNote]:
    """Runs of a pitch above the threshold, by onset and pitch.

    Args:
        roll: [128, T] probabilities.
        seconds_per_frame: of the roll.
    """
    on = np.pad(roll >= THRESHOLD, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(on, axis=1)
    (pitch, begin), (_, end) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    found = (
        HeardNote(float(first * seconds_per_frame), float((last - first) * seconds_per_frame), int(key))
        for key, first, last in zip(pitch, begin, end, strict=True)
        if last - first >= SHORTEST_FRAMES
    )
    return sorted(found, key=lambda note: (note.onset, note.pitch))


def write_midi(notes: Iterable[HeardNote], path: str | Path) -> None:
    """Write notes as a standard MIDI file.

    Raises:
        TimbreflowError: pretty_midi is not installed, or the file cannot be written.
    """
    try:
        import pretty_midi
    except ImportError as error:
        raise TimbreflowError(
            "MIDI files need pretty_midi, which is not installed; pip install 'timbreflow[pipeline]'."
        ) from error
    midi, part = pretty_midi.PrettyMIDI(), pretty_midi.Instrument(0, name="heard by timbreflow")
    part.notes = [pretty_midi.Note(VELOCITY, note.pitch, note.onset, note.onset + note.duration) for note in notes]
    midi.instruments.append(part)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(Path(path)) as temporary:
        midi.write(str(temporary))
