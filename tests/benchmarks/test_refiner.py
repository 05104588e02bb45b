"""How notes are scored: what is heard late or twice, and what is missing."""

import pytest
import torch

from benchmarks.refiner import _f1, note_counts


def roll(*notes: tuple[int, int, int]) -> torch.Tensor:
    made = torch.zeros(1, 128, 20, dtype=torch.bool)
    for pitch, start, stop in notes:
        made[0, pitch, start:stop] = True
    return made


def test_notes_that_are_heard_right_score_1() -> None:
    true = roll((60, 2, 8), (64, 2, 8))
    assert note_counts(true, true).tolist() == [[12, 12, 12, 12], [2, 2, 2, 2]]
    assert [_f1(row) for row in note_counts(true, true)] == pytest.approx([1.0, 1.0])


def test_an_onset_may_be_one_frame_late_and_no_more() -> None:
    true = roll((60, 2, 8))
    assert note_counts(roll((60, 3, 8)), true).tolist() == [[5, 5, 5, 6], [1, 1, 1, 1]]
    assert note_counts(roll((60, 4, 8)), true)[1].tolist() == [0, 1, 0, 1]


def test_a_note_that_is_heard_in_two_parts_has_an_onset_too_many() -> None:
    frames, onsets = note_counts(roll((60, 2, 5), (60, 6, 8)), roll((60, 2, 8)))
    assert frames.tolist() == [5, 5, 5, 6]
    assert onsets.tolist() == [1, 2, 1, 1]
    assert _f1(onsets) == pytest.approx(2 / 3)


def test_silence_scores_0_where_notes_are_and_is_no_error() -> None:
    assert [_f1(row) for row in note_counts(roll(), roll((60, 2, 8)))] == [0.0, 0.0]
