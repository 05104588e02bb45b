"""Metrics of expression, on sounds whose tuning, vibrato, glides, levels and attacks are known."""

import numpy as np
import pytest

from timbreflow.metrics import expression

RATE = 16_000


def tone(cents: np.ndarray, *, partials: int = 6) -> np.ndarray:
    """[N] a sound whose pitch follows cents re 440 Hz."""
    phase = 2 * np.pi * np.cumsum(440 * 2 ** (cents / 1200)) / RATE
    return sum(np.sin(k * phase) / k for k in range(1, partials + 1)).astype(np.float32) * 0.1


def time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * RATE)) / RATE


@pytest.mark.parametrize("cents", [-37.0, 0.0, 30.0])
def test_tuning_of_melodies_and_of_chords(cents: float) -> None:
    melody = np.concatenate([tone(np.full(RATE // 2, 100 * note + cents)) for note in (-9, -5, -2, 3)])
    chord = sum(tone(np.full(RATE, 100 * note + cents)) for note in (-9, -5, -2))
    assert expression.tuning(melody) == pytest.approx(cents, abs=2)
    assert expression.tuning(chord) == pytest.approx(cents, abs=2)


@pytest.mark.parametrize(("depth", "rate"), [(46.0, 5.5), (20.0, 6.5), (0.0, 5.0)])
def test_vibrato_has_its_depth_and_rate(depth: float, rate: float) -> None:
    t = time(2.0)
    found, found_rate = expression.vibrato(tone(-300 + depth * np.sin(2 * np.pi * rate * t)))
    assert found == pytest.approx(depth, abs=0.1 * depth + 1)
    if depth:
        assert found_rate == pytest.approx(rate, abs=0.2)


def test_a_staircase_is_no_glide() -> None:
    path = -300 + 350 * time(2.0)
    staircase = 100 * np.round(path / 100)
    assert expression.glide_error(tone(path - 1200), tone(path)) < 8
    assert 35 < expression.glide_error(tone(staircase), tone(path)) < 60


def test_slope_of_levels() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    content = [expression.level(gain * noise) for gain in (1.0, 0.1, 0.01)]
    assert content[0] - content[1] == pytest.approx(20, abs=0.01)
    assert expression.level_slope(0.25 * np.array(content) + 7, content) == pytest.approx(0.25)


@pytest.mark.parametrize("rise", [0.006, 0.02, 0.05])
def test_rise_of_an_attack(rise: float) -> None:
    t = time(1.0)
    # Of a linear ramp 10 to 90 % is .8 of its length.
    envelope = np.clip((t - 0.5) / (rise / 0.8), 0, 1) * np.exp(-np.maximum(0, t - 0.6))
    found = expression.rise_time(tone(np.zeros(RATE)) * envelope, 0.5)
    assert found == pytest.approx(1000 * rise, abs=3)


def test_a_joint_that_swells_is_seen() -> None:
    drone = tone(np.zeros(8 * RATE))
    assert max(map(abs, expression.level_swing(drone))) < 0.2
    drone[3 * RATE : 4 * RATE] *= 2
    drone[5 * RATE : 6 * RATE] *= 0.5
    assert expression.level_swing(drone) == pytest.approx((-6.02, 6.02), abs=0.2)


def test_weak_notes_are_counted() -> None:
    notes = (60, 64, 67)
    parts = [tone(np.full(RATE, 100.0 * (note - 69)), partials=1) for note in notes]
    whole = sum(parts)
    assert expression.weak_notes(0.3 * whole, whole, notes) == 0
    assert expression.weak_notes(parts[0] + 0.1 * parts[1] + 0.25 * parts[2], whole, notes) == 1


def test_share_of_the_bass() -> None:
    bass, treble = (tone(np.full(RATE, cents), partials=1) for cents in (-2400.0, 0.0))
    assert expression.low_share(bass + treble) == pytest.approx(-3.0, abs=0.1)
    assert expression.low_share(treble) < -60
