"""Pitch distance: whether two recordings sound the same notes at the same time.

Lower is better. The notes come from a transcriber that is better on some instruments than on others, so copying the
content exactly does not score 0 against the target: read it together with the note onset F1 (`onsets.py`).

Conventions:
    Transcribed notes are laid on frames of 10 ms. A frame in which neither recording sounds counts as agreement
    (distance 0); one in which only one of them sounds counts as full disagreement (1).

Metrics:
    * :func:`pitch_distance`: 1 - Jaccard index of the two sets of sounding MIDI pitches, averaged over frames.

Reference: Cífka et al. 2021. They transcribe with Multi-F0 contours, we with Basic Pitch.
"""

import numpy as np
from numpy.typing import NDArray

from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import Notes

SECONDS_PER_FRAME = 0.01


def jaccard_distance(estimate: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Mean over frames of 1 - Jaccard index of two piano rolls [128, T].

    Raises:
        TimbreflowError: the rolls differ in shape or have no frame.
    """
    if estimate.shape != reference.shape or estimate.ndim != 2 or estimate.shape[1] == 0:
        raise TimbreflowError(
            f"pitch distance compares piano rolls of one shape [128, T]; got {estimate.shape} and {reference.shape}."
        )
    both = np.logical_and(estimate, reference).sum(axis=0)
    either = np.logical_or(estimate, reference).sum(axis=0)
    similarity = np.where(either == 0, 1.0, both / np.maximum(either, 1))
    return float(1.0 - similarity.mean())


def pitch_distance(estimate: Notes, reference: Notes, *, duration: float) -> float:
    """Pitch distance between two transcriptions of recordings that last `duration` seconds."""
    n_frames = max(1, round(duration / SECONDS_PER_FRAME))
    return jaccard_distance(
        estimate.piano_roll(n_frames, SECONDS_PER_FRAME), reference.piano_roll(n_frames, SECONDS_PER_FRAME)
    )
