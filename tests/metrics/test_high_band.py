"""The band from 8 to 20 kHz: known differences are measured, and what lies below does not count."""

import numpy as np
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.high_band import SAMPLE_RATE, high_band_distance


def noise(low: float, high: float, *, seed: int = 0) -> np.ndarray:
    """A second of noise between two frequencies in Hz, unit power a Hz."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(SAMPLE_RATE))
    hertz = np.fft.rfftfreq(SAMPLE_RATE, 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum * ((hertz >= low) & (hertz < high)), SAMPLE_RATE)


BELOW, ABOVE = noise(0, 7500), noise(7500, 22000)


def test_the_same_sound_at_another_level_has_no_distance() -> None:
    assert high_band_distance(0.1 * (BELOW + ABOVE), BELOW + ABOVE) == pytest.approx((0, 0), abs=1e-3)


@pytest.mark.parametrize("decibels", [-12.0, 6.0])
def test_a_difference_above_is_measured_in_decibels(decibels: float) -> None:
    # Most of the power lies below, so that unit RMS moves nothing.
    target = 30 * BELOW + ABOVE
    distance, bias = high_band_distance(30 * BELOW + 10 ** (decibels / 20) * ABOVE, target)
    assert bias == pytest.approx(decibels, abs=0.2)
    assert distance == pytest.approx(abs(decibels), abs=0.2)


def test_what_lies_below_does_not_count() -> None:
    other = noise(0, 7500, seed=1)
    distance, _ = high_band_distance(30 * other + ABOVE, 30 * BELOW + ABOVE)
    assert distance < 1.0


def test_two_silences_above_are_alike_whatever_noise_they_hold() -> None:
    assert high_band_distance(BELOW + 1e-6 * ABOVE, BELOW)[0] == pytest.approx(0, abs=1e-3)


def test_other_lengths_are_refused() -> None:
    with pytest.raises(TimbreflowError, match="one shape"):
        high_band_distance(BELOW, BELOW[:24000])
