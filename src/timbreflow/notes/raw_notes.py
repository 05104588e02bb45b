"""The notes of symusic as bytes, in a third of the time of its `numpy()`.

What symusic pickles is its notes as they lie in memory, behind their number. Nobody promises that, so it is tried once
on two notes, and `numpy()` is asked where it does not hold.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import symusic

RAW_NOTE = np.dtype(
    {
        "names": ["time", "duration", "pitch", "velocity"],
        "formats": ["<f4", "<f4", "i1", "i1"],
        "offsets": [0, 4, 8, 9],
        "itemsize": 12,
    }
)
"""One note with times in s."""


def _from_memory(notes: Any) -> memoryview:
    return memoryview(notes.__getstate__())[4:]


def _from_columns(notes: Any) -> memoryview:
    columns = notes.numpy()
    rows = np.zeros(len(columns["time"]), RAW_NOTE)
    for name in columns:
        rows[name] = columns[name]
    return memoryview(rows.tobytes())


def _promised() -> bool:
    """Whether notes lie in memory as `RAW_NOTE` says."""
    track: Any = symusic.Track(ttype="second")  # symusic's types know only its generic base
    for note in ((0.25, 1e6, 127, 1), (3.5, 0.1, 0, 100)):
        track.notes.append(symusic.Note(*note, ttype="second"))
    rows = np.frombuffer(_from_columns(track.notes), RAW_NOTE)
    try:
        found = np.frombuffer(_from_memory(track.notes), RAW_NOTE)
    except (AttributeError, TypeError, ValueError):
        return False
    return all(np.array_equal(found[name], rows[name]) for name in RAW_NOTE.names or ())


raw_notes: Callable[[Any], memoryview] = _from_memory if _promised() else _from_columns
"""Notes of a track whose times are seconds to bytes of `RAW_NOTE`."""
