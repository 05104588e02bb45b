"""Segments hold at least the onsets that were asked for, and none that does is missed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timbreflow.notes.segments import find_segments
from timbreflow.notes.tables import Notes


def notes_at(onsets: list[float]) -> Notes:
    """Notes of .1 s at these times."""
    return Notes.of(onsets, [0.1] * len(onsets), [60] * len(onsets), [80] * len(onsets))


@given(st.lists(st.integers(0, 240), max_size=60), st.integers(1, 6), st.sampled_from([1.0, 2.0, 8.0]))
def test_exactly_the_windows_with_enough_distinct_onsets(quarters: list[int], min_onsets: int, hop: float) -> None:
    notes = notes_at([quarter / 4 for quarter in quarters])
    starts = find_segments(notes, length=8.0, min_onsets=min_onsets, hop=hop)
    last = max(quarters, default=-1) / 4
    expected = [
        start
        for start in np.arange(0, 61, hop)
        if start <= last and len(set(notes.window(start, 8.0).onset.tolist())) >= min_onsets
    ]
    assert starts.dtype == np.float32
    assert starts.tolist() == expected


def test_a_chord_is_one_onset() -> None:
    assert len(find_segments(notes_at([1.0] * 4), length=8.0, min_onsets=2, hop=8.0)) == 0


def test_busy_seconds_refuse_a_burst_of_notes() -> None:
    burst, spread = notes_at([0.0, 0.1, 0.2, 0.3]), notes_at([0.0, 2.0, 4.0, 6.0])
    for notes, kept in ((burst, 0), (spread, 1)):
        assert len(find_segments(notes, length=8.0, min_onsets=4, hop=8.0, min_busy_seconds=4)) == kept


@pytest.mark.parametrize(("length", "hop"), [(0.0, 1.0), (8.0, 0.0)])
def test_lengths_must_be_positive(length: float, hop: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        find_segments(notes_at([1.0]), length=length, min_onsets=1, hop=hop)
