"""Figures of sounds that are known."""

import numpy as np
import pytest

from timbreflow.monitoring.figures import Ears, Figures, measure

RATE = 16000


@pytest.fixture(scope="module")
def ears() -> Ears:
    return Ears()


def tones(*pitches: int, seconds: float = 4.0, rate: int = RATE, rms: float = 0.1, partials: int = 6) -> np.ndarray:
    """[N] held notes with partials that fall by 6 dB an octave, of MIDI pitches."""
    time = np.arange(round(seconds * rate)) / rate
    frequencies = [440 * 2 ** ((pitch - 69) / 12) for pitch in pitches]
    sound = sum(np.sin(2 * np.pi * f * k * time) / k for f in frequencies for k in range(1, partials + 1))
    return np.asarray(rms * sound / np.sqrt(np.mean(np.square(sound))), np.float32)


def test_a_sine(ears: Ears) -> None:
    sine = tones(81, rate=44100, partials=1)
    found = measure(sine, 44100, ears)
    assert found.seconds == 4.0
    assert found.level_dbfs == pytest.approx(-20.0, abs=0.05)
    assert found.silent_share == 0.0
    assert found.band_hz == pytest.approx(880, abs=20)
    assert found.flatness_db is not None and found.flatness_db < -30


def test_white_noise(ears: Ears) -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(4 * RATE)).astype(np.float32)
    found = measure(noise, RATE, ears)
    assert found.band_hz == pytest.approx(0.99 * 8000, abs=30)
    assert found.flatness_db is not None and found.flatness_db > -4


def test_silence_is_a_share_of_the_length(ears: Ears) -> None:
    sound = np.concatenate([tones(60, seconds=3.0), np.zeros(RATE, np.float32)])
    found = measure(sound, RATE, ears)
    assert found.silent_share == pytest.approx(0.25, abs=0.02)
    assert found.level_dbfs == pytest.approx(-20.0, abs=0.2), "of the audible part"


def test_more_notes_are_heard_in_a_chord(ears: Ears) -> None:
    one, three = measure(tones(60), RATE, ears), measure(tones(52, 60, 67), RATE, ears)
    assert one.polyphony is not None and three.polyphony is not None
    assert one.polyphony < 1.7 < three.polyphony


def test_level_and_rate_change_no_other_figure(ears: Ears) -> None:
    loud, quiet = measure(tones(60, rms=0.2), RATE, ears), measure(tones(60, rms=0.002), RATE, ears)
    assert loud.level_dbfs is not None and quiet.level_dbfs is not None
    assert loud.level_dbfs - quiet.level_dbfs == pytest.approx(40, abs=0.1)
    assert (loud.band_hz, loud.polyphony, loud.silent_share) == (quiet.band_hz, quiet.polyphony, quiet.silent_share)
    other = measure(tones(60, rate=48000), 48000, ears)
    assert other.band_hz == pytest.approx(loud.band_hz, rel=0.02)
    assert measure(np.stack([tones(60), tones(60)]), RATE, ears).band_hz == loud.band_hz


@pytest.mark.parametrize("sound", [np.zeros(RATE), np.full(RATE, np.nan), np.zeros(0)])
def test_what_has_no_sound_has_a_length_only(sound: np.ndarray, ears: Ears) -> None:
    assert measure(sound.astype(np.float32), RATE, ears) == Figures(len(sound) / RATE)


def test_an_hour_costs_no_more_than_half_a_minute(ears: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    roll = ears.roll
    monkeypatch.setattr(Ears, "roll", lambda self, sound: (heard.append(len(sound)), roll(sound))[1])
    assert measure(tones(60, seconds=90.0, partials=2), RATE, ears).seconds == 90.0
    assert heard == [30 * RATE]
