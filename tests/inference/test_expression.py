"""Expression kept at inference: what is taken out of a content comes back, and a steady one is left alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.inference.tiny import melody
from timbreflow.errors import TimbreflowError
from timbreflow.inference import expression
from timbreflow.inference.expression import Dynamics, Sound, TimeMap, onsets, rise_seconds, sharpened, time_map
from timbreflow.inference.synthesis import Synthesizer
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.metrics.expression import glide_error, pitch_track, rise_time, tuning, vibrato

RATE = 16_000
T = np.arange(3 * RATE) / RATE
STEADY = np.full(len(T), -300.0)
VIBRATO = -300 + 46 * np.sin(2 * np.pi * 5.5 * T)
GLIDE = -300 + 700 * np.clip((T - 0.5) / 2, 0, 1)


def tone(cents: np.ndarray, *, partials: int = 7) -> np.ndarray:
    """[N] a sound whose pitch follows cents re 440 Hz."""
    phase = 2 * np.pi * np.cumsum(440 * 2 ** (cents / 1200)) / RATE
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, partials + 1))).astype(np.float32)


def mapped(sound: np.ndarray) -> TimeMap:
    found = time_map(sound, RATE)
    assert found is not None
    return found


def spread(sound: np.ndarray) -> float:
    """Cents between the lowest and the highest pitch, the edges aside."""
    return float(np.ptp(pitch_track(sound)[10:-10]))


@pytest.mark.parametrize("cents", [VIBRATO, GLIDE], ids=["vibrato", "glide"])
def test_the_model_gets_a_flat_pitch(cents: np.ndarray) -> None:
    sound = tone(cents)
    assert spread(sound) > 80
    assert spread(mapped(sound).flatten(sound)) < 8


@pytest.mark.parametrize("cents", [VIBRATO, GLIDE, STEADY + 30], ids=["vibrato", "glide", "tuning"])
def test_there_and_back_is_the_sound_itself(cents: np.ndarray) -> None:
    sound = tone(cents)
    way = mapped(sound)
    back = way.restore(way.flatten(sound))
    assert back.shape == sound.shape
    error = (back - sound)[800:-800]
    assert np.mean(error**2) < 1e-7 * np.mean(sound**2)


def test_a_flat_answer_gets_vibrato_and_glide() -> None:
    shaken, gliding = mapped(tone(VIBRATO)), mapped(tone(GLIDE))
    answer = tone(np.full(6 * RATE, -300.0), partials=3)
    depth, rate = vibrato(shaken.restore(answer))
    assert depth > 0.9 * vibrato(tone(VIBRATO))[0]
    assert rate == pytest.approx(5.5, abs=0.1)
    # Half of the time on the highest or lowest note, the rest on the way: the run's note lies in the middle of it.
    path = gliding.restore(tone(np.full(6 * RATE, 0.0), partials=3))
    assert glide_error(path, tone(GLIDE)) < 8
    assert np.nanmax(np.abs(np.diff(pitch_track(path)[10:-10]))) < 15


@pytest.mark.parametrize("cents", [-41.0, 12.0, 30.0])
def test_tuning_of_chords_and_melodies(cents: float) -> None:
    chord = sum(tone(STEADY + cents + 100 * note) for note in (0, 4, 7, 11))
    notes = tone(np.repeat([-300.0, 0.0, 200.0, -100.0, 400.0, 100.0], RATE // 2) + cents)
    for sound in (chord, notes):
        way = mapped(sound)
        assert tuning(way.flatten(sound)) == pytest.approx(0, abs=3)
        assert tuning(way.restore(way.flatten(sound))) == pytest.approx(cents, abs=3)


@pytest.mark.parametrize("cents", [VIBRATO, STEADY], ids=["vibrato", "steady"])
def test_a_result_can_lie_between_the_semitones(cents: np.ndarray) -> None:
    """As transpositions by less than one do: a model answers only semitones."""
    sound = tone(cents)
    way = time_map(sound, RATE, above=30)
    assert way is not None
    assert tuning(way.flatten(sound)) == pytest.approx(-30, abs=3)
    answer = tone(np.full(6 * RATE, -300.0), partials=3)
    higher = way.restore(answer)
    assert len(higher) == len(sound)
    assert np.nanmedian(pitch_track(higher)[10:-10]) == pytest.approx(np.median(cents) + 30, abs=5)


def test_a_legato_is_no_glide() -> None:
    steps = np.repeat([-300.0, -200.0, -400.0, -300.0], RATE // 2)
    tied = np.convolve(np.pad(steps, 400, mode="edge"), np.ones(801) / 801, mode="valid")  # 50 ms from note to note
    assert time_map(tone(tied), RATE) is None


def test_what_is_steady_and_in_tune_has_no_map() -> None:
    scale = tone(np.repeat(100.0 * np.arange(-3, 9), RATE // 4))
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    for sound in (tone(STEADY), scale, noise, np.zeros(RATE, np.float32), tone(STEADY)[:100]):
        assert time_map(sound, RATE) is None


def test_a_phrase_at_a_fifth_of_the_level_is_evened_and_comes_back() -> None:
    notes = np.concatenate([tone(STEADY)[: RATE // 2] * np.hanning(RATE // 2) for _ in range(12)])
    sound = (notes * np.repeat([1.0, 0.1], 3 * RATE)).astype(np.float32)
    dynamics = Dynamics.of(sound, RATE)
    even = next(dynamics.taken_out([sound], RATE))
    loud, soft = (20 * np.log10(np.std(part)) for part in np.split(even, 2))
    assert 1.5 < loud - soft < 6
    np.testing.assert_allclose(next(dynamics.put_back([even], RATE)), sound, rtol=1e-4, atol=1e-7)
    assert np.mean(even**2) == pytest.approx(np.mean(sound**2), rel=0.1)


def test_the_decay_of_a_note_stays_with_the_model() -> None:
    sound = tone(STEADY)[:RATE] * (10 ** (-T[:RATE])).astype(np.float32)  # 20 dB a second
    even = next(Dynamics.of(sound, RATE).taken_out([sound], RATE))
    decay = 20 * np.log10(np.std(even[: RATE // 10]) / np.std(even[-RATE // 10 :]))
    assert decay > 15


def test_blocks_change_no_gain() -> None:
    sound = melody(3.0, RATE) * np.repeat([1.0, 0.05, 0.4], RATE).astype(np.float32)
    dynamics = Dynamics.of(sound, RATE)
    whole = next(dynamics.taken_out([sound], RATE))
    parts = np.concatenate(list(dynamics.taken_out(np.split(sound, [7, 9000, 30001]), RATE)))
    np.testing.assert_array_equal(parts, whole)


def attack(rise: float, *, start: float = 0.5) -> np.ndarray:
    """A second of silence and a note; a linear ramp rises in .8 of its length."""
    t = T[:RATE]
    return tone(STEADY)[:RATE] * np.clip((t - start) / (rise / 0.8), 0, 1).astype(np.float32)


def test_onsets_and_rises_are_found() -> None:
    assert [round(1000 * onset / RATE) for onset in onsets(attack(0.005), RATE)] == [pytest.approx(500, abs=3)]
    assert rise_seconds(attack(0.006), RATE) == pytest.approx(0.006, abs=0.003)
    assert onsets(tone(STEADY)[RATE:], RATE) in ([], [0])
    assert rise_seconds(tone(STEADY) * np.hanning(len(T)).astype(np.float32), RATE) > expression.SLOWEST_RISE


def test_a_smeared_attack_gets_the_styles_rise() -> None:
    smeared, content = attack(0.035, start=0.48), attack(0.005)
    assert rise_time(smeared, 0.5) > 30
    sharp = sharpened(smeared, content, 0.006, RATE)
    assert rise_time(sharp, 0.5) < 13
    np.testing.assert_allclose(sharp[-RATE // 4 :], smeared[-RATE // 4 :], atol=1e-6)


def test_slow_styles_and_contents_without_onsets_change_nothing() -> None:
    smeared = attack(0.035, start=0.48)
    assert sharpened(smeared, attack(0.005), 0.05, RATE) is smeared
    assert sharpened(smeared, np.zeros(RATE, np.float32), 0.006, RATE) is smeared


@pytest.fixture
def session(bundles: dict[str, Path]) -> TimbreTransfer:
    return TimbreTransfer.load(bundles["vqvae"])


def test_a_steady_clip_is_left_bit_for_bit(session: TimbreTransfer) -> None:
    # Fades of which none is sharp: an onset would get the style's rise.
    style = tone(STEADY + 500) * np.hanning(len(T)).astype(np.float32)
    made = [session.transfer(tone(STEADY), style, expression=switch) for switch in ("on", "off")]
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("seconds", [0.7, 3.0, 17.3])
def test_lengths_are_exact_whatever_is_bent(session: TimbreTransfer, seconds: float) -> None:
    t = np.arange(round(seconds * 44100)) / 44100
    content = 0.1 * np.sin(2 * np.pi * np.cumsum(330 * 2 ** (0.04 * np.sin(35 * t) + 0.02)) / 44100)
    made = {
        switch: session.transfer(content, melody(1.0, 44100), sample_rate=44100, expression=switch)
        for switch in ("on", "off")
    }
    assert made["on"].shape == content.shape
    assert not np.array_equal(made["on"], made["off"])


def test_a_model_is_asked_for_semitones(session: TimbreTransfer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    genuine = Synthesizer.content_features

    def listening(self: Synthesizer, sounds: Sequence[Sound], *, transpose: float = 0.0) -> Tensor:
        asked.append((tuning(sounds[0]), 100 * transpose))
        return genuine(self, sounds, transpose=transpose)

    monkeypatch.setattr(Synthesizer, "content_features", listening)
    session.transfer(tone(STEADY + 20), melody(1.0, RATE), transpose=-3.4)
    (heard, transposed) = asked[0]
    assert heard + transposed == pytest.approx(-300, abs=3)
    session.transfer(tone(STEADY + 20), melody(1.0, RATE), transpose=-3.4, expression="off")
    assert asked[1] == (pytest.approx(20, abs=3), pytest.approx(-340))


def test_each_channel_keeps_its_own_expression(session: TimbreTransfer) -> None:
    style, swell = melody(1.0, RATE), np.repeat([1.0, 0.1], len(T) // 2).astype(np.float32)
    both = np.stack([tone(VIBRATO) * swell, tone(GLIDE) * swell[::-1]])
    for number, made in enumerate(session.transfer(both, style, stereo="channels")):
        np.testing.assert_allclose(made, session.transfer(both[number], style), atol=1e-5)
    middle = session.transfer(both.mean(axis=0), style)
    made = session.transfer(both, style, stereo="mid").mean(axis=0)
    np.testing.assert_allclose(made, middle, atol=1e-4)
    assert np.abs(middle - session.transfer(both.mean(axis=0), style, expression="off")).max() > 1e-3


def test_batches_change_nothing(session: TimbreTransfer) -> None:
    from timbreflow.inference.synthesis import DecodeRequest

    sounds = [tone(STEADY), tone(VIBRATO), tone(STEADY + 30)]
    style = session.styles.reference(_recording(melody(2.0, RATE)))

    def request(count: int) -> DecodeRequest:
        return DecodeRequest(style.features.repeat(count, 1, 1), 0.0, 0, None, rises=(style.rise,) * count)

    together = session.synthesizer.transfer(sounds, request(3))
    for sound, made in zip(sounds, together, strict=True):
        np.testing.assert_allclose(session.synthesizer.transfer([sound], request(1))[0], made, atol=1e-5)


def _recording(sound: np.ndarray):  # noqa: ANN202
    from timbreflow.inference.streaming.recordings import from_array

    return from_array(sound, RATE, name="the style")


def test_another_word_is_refused(session: TimbreTransfer) -> None:
    with pytest.raises(TimbreflowError, match="choose on or off"):
        session.transfer(tone(STEADY), tone(STEADY), expression="maybe")  # type: ignore[arg-type]


def test_a_softer_note_without_a_gap_is_followed() -> None:
    sound = tone(STEADY) * np.repeat([1.0, 0.1], len(T) // 2).astype(np.float32)
    even = next(Dynamics.of(sound, RATE).taken_out([sound], RATE))
    loud, soft = (20 * np.log10(np.std(even[round(a * RATE) : round(b * RATE)])) for a, b in ((0.5, 1.4), (2.2, 3)))
    assert loud - soft == pytest.approx(3, abs=1.5)
