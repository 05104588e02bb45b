"""8-bit features: silence is exact, nothing moves by more than half a step, and nothing is clipped in silence."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import small
from timbreflow.data.quantization import RANGE, Quantization
from timbreflow.errors import TimbreflowError

CODES = Quantization.of(small.MELS)


@given(st.lists(st.floats(0, RANGE), min_size=1))
def test_a_round_trip_moves_no_value_by_more_than_half_a_step(above: list[float]) -> None:
    values = (np.array(above) + CODES.low).astype(np.float32)
    codes = CODES.encode(values)
    assert codes.dtype == np.uint8 and CODES.decode(codes).dtype == np.float32
    assert np.abs(CODES.decode(codes) - values).max() <= CODES.step / 2 + 1e-5
    assert np.array_equal(CODES.encode(CODES.decode(codes)), codes)


def test_silence_is_the_lowest_code() -> None:
    floor = np.log(np.full((2, 3), small.MELS.floor, np.float32))
    assert not CODES.encode(floor).any()
    assert np.allclose(CODES.decode(np.zeros(2, np.uint8)), floor[0, 0], atol=1e-6)
    linear = Quantization.of(dataclasses.replace(small.MELS, kind="log_stft"))
    assert linear.low == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, CODES.low - 0.1, CODES.low + RANGE + 0.1])
def test_what_does_not_fit_is_refused(value: float) -> None:
    with pytest.raises(TimbreflowError, match="store them as float16"):
        CODES.encode(np.array([CODES.low, value]))
