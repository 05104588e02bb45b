"""Stretches of a track that hold enough notes to be rendered as a clip."""

import numpy as np

from timbreflow.notes.tables import Notes


def find_segments(notes: Notes, *, length: float, min_onsets: int, hop: float, min_busy_seconds: int = 0) -> np.ndarray:
    """Start times of the windows of a track that are worth hearing.

    Windows start at `0, hop, 2 hop, ...` up to the last onset; notes that start together count as one onset.

    Args:
        notes: of one track.
        length: of a window, in s.
        min_onsets: least number of distinct onsets in the window (Cífka et al. 2021: 4 in 8 s).
        hop: between two starts, in s.
        min_busy_seconds: least number of whole seconds of the window in which a note begins; the artificial test set
            of Cífka et al. (2021) asks for 4 of 8. 0 does not ask.

    Returns:
        [n] float32, ascending, in s.

    Raises:
        ValueError: `length` or `hop` is not positive.
    """
    if length <= 0 or hop <= 0:
        raise ValueError(f"length and hop must be positive, not {length} and {hop}")
    if len(notes) == 0:
        return np.zeros(0, np.float32)
    onsets = np.unique(notes.onset)
    # The float32 that is handed back must be the one that counted, so that Notes.window finds the same notes.
    starts = (np.arange(int(onsets[-1] / hop) + 1) * hop).astype(np.float32)
    kept = _onsets_between(onsets, starts, length) >= min_onsets
    if min_busy_seconds > 0:
        seconds = np.arange(int(np.ceil(length)))
        widths = np.minimum(length - seconds, 1.0)
        busy = [_onsets_between(onsets, starts + s, width) > 0 for s, width in zip(seconds, widths, strict=True)]
        kept &= np.sum(busy, axis=0) >= min_busy_seconds
    return starts[kept]


def _onsets_between(onsets: np.ndarray, starts: np.ndarray, length: float) -> np.ndarray:
    """Number of `onsets` in each `[start, start + length)`, with the arithmetic of `Notes.window`: [n] int."""
    wide = onsets.astype(np.float64)
    first = np.searchsorted(wide, starts.astype(np.float64), side="left")
    end = np.searchsorted(wide, starts.astype(np.float64) + length, side="left")
    return end - first
