import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.rendering import effects
from timbreflow.rendering.effect_settings import RANGES, Effect, all_settings, draw_effect

RATE = 16000


def tone(frequency: float = 440.0, level: float = 0.3, seconds: float = 1.0) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def noise(seconds: float = 1.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(int(seconds * RATE))).astype(np.float32)


def level_db(audio: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(audio)) ** 2
    frequencies = np.fft.rfftfreq(len(audio), 1 / RATE)
    return float(10 * np.log10(power[(frequencies >= low) & (frequencies < high)].mean()))


def test_overdrive_adds_odd_harmonics_that_grow_with_gain() -> None:
    def third(gain: float) -> float:
        driven = effects.overdrive(tone(), RATE, gain_db=gain)
        return level_db(driven, 1310, 1330) - level_db(driven, 430, 450)

    assert third(10) > level_db(tone(), 1310, 1330) - level_db(tone(), 430, 450) + 20
    assert third(30) > third(10)
    assert abs(float(effects.overdrive(np.abs(tone()), RATE, gain_db=30)[8000:].mean())) < 0.1


def test_tremolo_swings_by_its_depth_at_its_rate() -> None:
    shaken = effects.tremolo(np.ones(RATE, np.float32), RATE, rate_hz=5.0, depth=0.4)
    assert shaken.max() == pytest.approx(1.0, abs=1e-3)
    assert shaken.min() == pytest.approx(0.6, abs=1e-3)
    assert np.argmax(np.abs(np.fft.rfft(shaken - shaken.mean()))) == 5


def test_phaser_cuts_wandering_notches() -> None:
    phased = effects.phaser(noise(4.0), RATE, rate_hz=0.25, feedback=0.3)
    early, late = phased[:RATE], phased[2 * RATE : 3 * RATE]
    bands = [(low, low + 100) for low in range(200, 4000, 100)]
    spectra = [
        np.array([level_db(part, *band) - level_db(noise(4.0)[:RATE], *band) for band in bands])
        for part in (early, late)
    ]
    assert np.ptp(spectra[0]) > 3
    assert np.max(np.abs(spectra[0] - spectra[1])) > 3


def test_reverb_rings_on_for_its_decay_time() -> None:
    click = np.zeros(3 * RATE, np.float32)
    click[0] = 1.0
    wet = effects.reverb(click, RATE, decay_seconds=1.0, wet=0.5, room=3.0)
    assert wet[0] == pytest.approx(0.5, abs=0.2)
    part = [np.sqrt(np.mean(wet[start : start + 800] ** 2)) for start in (800, 8800)]
    assert 20 * np.log10(part[0] / part[1]) == pytest.approx(30, abs=3)
    assert np.max(np.abs(wet[RATE + 10 :])) < 1e-5


def test_equalizer_moves_each_band_by_its_gain() -> None:
    flat = effects.equalizer(noise(), RATE, low_db=0, middle_db=0, middle_hz=1000, high_db=0)
    np.testing.assert_allclose(flat, noise(), atol=1e-5)
    shaped = effects.equalizer(noise(), RATE, low_db=6, middle_db=-8, middle_hz=1000, high_db=9)
    for (low, high), gain in {(20, 100): 6, (980, 1020): -8, (7000, 8000): 9}.items():
        assert level_db(shaped, low, high) - level_db(noise(), low, high) == pytest.approx(gain, abs=0.8)


@pytest.mark.parametrize("name", sorted(RANGES))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_drawn_effects_are_finite_pure_and_heard(name: str, seed: int) -> None:
    effect = draw_effect(np.random.default_rng(seed), name, all_settings(name))
    audio = noise(0.25)
    before = audio.copy()
    result = effect.apply(audio, RATE)
    np.testing.assert_array_equal(audio, before)
    np.testing.assert_array_equal(result, effect.apply(audio, RATE))
    assert result.shape == audio.shape
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert np.max(np.abs(result)) < 20
    assert np.std(result - audio) > 1e-3 * np.std(audio)


@pytest.mark.parametrize("name", sorted(RANGES))
def test_effects_of_silence_and_of_one_sample(name: str) -> None:
    effect = draw_effect(np.random.default_rng(1), name, all_settings(name))
    assert not effect.apply(np.zeros(100, np.float32), RATE).any()
    assert np.isfinite(effect.apply(np.ones(1, np.float32), RATE)).all()


@given(seed=st.integers(0, 2**32), data=st.data())
def test_a_drawn_effect_has_an_allowed_setting_and_survives_json(seed: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(RANGES)))
    allowed = data.draw(st.sets(st.sampled_from(all_settings(name)), min_size=1))
    effect = draw_effect(np.random.default_rng(seed), name, allowed)
    assert effect.setting in allowed
    assert Effect.from_json(effect.as_json()) == effect
    for key, value in effect.parameters:
        assert RANGES[name][key].low <= value <= RANGES[name][key].high


def test_settings_count_and_unknown_effects() -> None:
    assert {name: len(all_settings(name)) for name in RANGES} == {
        "overdrive": 6,
        "phaser": 6,
        "reverb": 6,
        "tremolo": 8,
    }
    with pytest.raises(ValueError, match="no setting"):
        draw_effect(np.random.default_rng(0), "tremolo", [])
    with pytest.raises(TimbreflowError, match="not an effect"):
        Effect.from_json({"name": "flanger", "parameters": {}})
