"""8-bit features: silence is exact, nothing moves by more than half a level, and nothing is clipped in silence."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import small
from timbreflow.data.levels import RANGE, Levels
from timbreflow.errors import TimbreflowError

LEVELS = Levels.of(small.MELS)


@given(st.lists(st.floats(0, RANGE), min_size=1))
def test_a_round_trip_moves_no_value_by_more_than_half_a_level(above: list[float]) -> None:
    values = (np.array(above) + LEVELS.low).astype(np.float32)
    levels = LEVELS.encode(values)
    assert levels.dtype == np.uint8 and LEVELS.decode(levels).dtype == np.float32
    assert np.abs(LEVELS.decode(levels) - values).max() <= LEVELS.step / 2 + 1e-5
    assert np.array_equal(LEVELS.encode(LEVELS.decode(levels)), levels)


def test_silence_is_the_lowest_level() -> None:
    floor = np.log(np.full((2, 3), small.MELS.floor, np.float32))
    assert not LEVELS.encode(floor).any()
    assert np.allclose(LEVELS.decode(np.zeros(2, np.uint8)), floor[0, 0], atol=1e-6)
    linear = Levels.of(dataclasses.replace(small.MELS, kind="log_stft"))
    assert linear.low == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, LEVELS.low - 0.1, LEVELS.low + RANGE + 0.1])
def test_what_does_not_fit_is_refused(value: float) -> None:
    with pytest.raises(TimbreflowError, match="extract_mels.storage to float16"):
        LEVELS.encode(np.array([LEVELS.low, value]))
