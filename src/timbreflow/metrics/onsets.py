"""Note onset F1 and note score: whether the true notes are still there.

Higher is better. The notes behind every clip are known here, so the transcription of a system's output is
compared with them, not with another transcription.

Conventions:
    mir_eval's note transcription with a tolerance of 50 ms on the onset and half a semitone on the pitch; offsets
    are ignored, since the release of an instrument is part of its timbre.

Metrics:
    * :func:`onset_f1` of one transcription against the true notes.
    * :func:`note_score`: F1 divided by the best F1 that the transcriber reaches on real renders of these notes, the
      greater one of target and content. It is taken over the means of a set, since a ceiling of 0 on a single clip
      (which a transcriber may well score on a bass or a bell) has no ratio.

Reference: Raffel et al., *mir_eval: A Transparent Implementation of Common MIR Metrics*, 2014.
"""

import mir_eval
import numpy as np
from numpy.typing import NDArray

from timbreflow.notes.tables import Notes

TOLERANCE = 0.05
"""Largest difference between onsets that match, in seconds."""

SHORTEST_NOTE = 1e-3
"""mir_eval refuses notes without a duration; durations do not matter here, so they are at least this (s)."""


def onset_f1(estimate: Notes, truth: Notes, *, tolerance: float = TOLERANCE) -> float:
    """F1 of the onsets and pitches of `estimate` against `truth`.

    Two empty lists agree (1); one empty list against a filled one scores 0.
    """
    if len(estimate.onset) == 0 or len(truth.onset) == 0:
        return float(len(estimate.onset) == len(truth.onset))
    _, _, score, _ = mir_eval.transcription.precision_recall_f1_overlap(
        _intervals(truth),
        _frequencies(truth),
        _intervals(estimate),
        _frequencies(estimate),
        onset_tolerance=tolerance,
        offset_ratio=None,
    )
    return float(score)


def note_score(
    system: NDArray[np.float64], target: NDArray[np.float64], content: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean F1 of a system over the greater of the target's and the content's mean F1; 0 where that ceiling is 0.

    Args:
        system: mean F1 of the system's outputs; any shape, so that bootstrap draws go through at once.
        target: mean F1 of the targets, of the same shape.
        content: mean F1 of the contents, of the same shape.
    """
    ceiling = np.maximum(target, content)
    return np.where(ceiling > 0.0, system / np.where(ceiling > 0.0, ceiling, 1.0), 0.0)


def _intervals(notes: Notes) -> NDArray[np.float64]:
    onset = np.maximum(notes.onset.astype(np.float64), 0.0)
    duration = np.maximum(notes.duration.astype(np.float64), SHORTEST_NOTE)
    return np.stack([onset, onset + duration], axis=1)


def _frequencies(notes: Notes) -> NDArray[np.float64]:
    return np.asarray(mir_eval.util.midi_to_hz(notes.pitch.astype(np.float64)), dtype=np.float64)
