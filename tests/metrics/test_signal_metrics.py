"""Laws of the metrics that compare two signals."""

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.lsd import decibel_distance, lsd, mel_decibels
from timbreflow.metrics.signals import unit_rms
from timbreflow.metrics.stft import stft_distance
from timbreflow.metrics.timbre import cosine_distance, mfcc_distance, mfcc_frames

RATE = 16_000


def noise(seed: int, *, seconds: float = 0.5) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def buzz(frequency: float, *, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * k * frequency * time) / k for k in range(1, 8)).astype(np.float32)


METRICS = [lsd, mfcc_distance, stft_distance]


@pytest.mark.parametrize("metric", METRICS)
def test_a_sound_is_at_distance_zero_from_itself_at_any_level(metric) -> None:  # noqa: ANN001
    sound = noise(0) + buzz(220.0, seconds=0.5)
    for gain in (1.0, 1e-3, 30.0):
        assert metric(gain * sound, sound) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_different_sounds_are_apart(metric) -> None:  # noqa: ANN001
    assert metric(noise(0), buzz(220.0, seconds=0.5)) > 0.05


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(100, 199))
def test_lsd_and_mfcc_distance_are_symmetric(first: int, second: int) -> None:
    a, b = noise(first), np.cumsum(noise(second)).astype(np.float32)
    assert lsd(a, b) == pytest.approx(lsd(b, a))
    assert mfcc_distance(a, b) == pytest.approx(mfcc_distance(b, a))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=12), st.integers(1, 20))
def test_lsd_of_a_constant_gain_a_band_is_the_mean_absolute_gain(gains: list[float], frames: int) -> None:
    spectrogram = np.random.default_rng(1).uniform(-60, 0, size=(len(gains), frames))
    shifted = spectrogram + np.array(gains)[:, None]
    assert decibel_distance(shifted, spectrogram) == pytest.approx(np.mean(np.abs(gains)), abs=1e-9)


def test_lsd_takes_the_root_over_time_within_each_band() -> None:
    first, second = np.zeros((2, 4)), np.array([[4.0, 0, 0, 0], [0, 0, 0, 0]])
    assert decibel_distance(first, second) == pytest.approx((np.sqrt(16 / 4) + 0) / 2)


def test_mel_spectrogram_is_librosas_with_its_floor() -> None:
    sound = noise(3) * np.linspace(0, 1, 8000).astype(np.float32)
    power = librosa.feature.melspectrogram(y=unit_rms(sound), sr=RATE, n_fft=2048, hop_length=512, n_mels=128)
    np.testing.assert_allclose(mel_decibels(sound), librosa.power_to_db(power, top_db=80.0), atol=1e-3)
    click = np.zeros(RATE, np.float32)
    click[100] = 1.0
    decibels = mel_decibels(click)
    assert decibels.min() == pytest.approx(decibels.max() - 80.0, abs=1e-3)


def test_mfcc_leave_loudness_out() -> None:
    sound = buzz(220.0)
    expected = librosa.feature.mfcc(y=unit_rms(sound), sr=RATE, n_mfcc=13, hop_length=500)[1:]
    np.testing.assert_allclose(mfcc_frames(0.01 * sound), expected, rtol=1e-3, atol=1e-2)


def test_mfcc_distance_hears_the_instrument_and_not_the_tune() -> None:
    reference = np.concatenate([buzz(220.0), buzz(247.0)])
    other_tune = np.concatenate([buzz(262.0), buzz(196.0)])
    other_instrument = np.concatenate([np.sign(buzz(220.0)), np.sign(buzz(247.0))]) * noise(1, seconds=2.0)
    assert mfcc_distance(other_tune, reference) < mfcc_distance(other_instrument, reference)


# Entries as embeddings have them, of single precision: the square of a smaller number would be 0.
EMBEDDINGS = st.lists(st.floats(-1e3, 1e3, width=32, allow_subnormal=False), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(
    EMBEDDINGS,
    EMBEDDINGS,
    st.floats(1e-2, 1e2),
)
def test_cosine_distance_is_bounded_and_blind_to_length(a: list[float], b: list[float], scale: float) -> None:
    distance = cosine_distance(a, b)
    assert 0.0 <= distance <= 2.0
    assert cosine_distance(np.array(a) * scale, b) == pytest.approx(distance, abs=1e-6)


def test_cosine_distance_of_known_angles() -> None:
    assert cosine_distance([1, 0], [0, 2]) == pytest.approx(1.0)
    assert cosine_distance([1, 1], [-2, -2]) == pytest.approx(2.0)
    assert cosine_distance([0, 0], [0, 0]) == 0.0
    assert cosine_distance([0, 0], [1, 0]) == 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_silence_gives_a_finite_figure(metric) -> None:  # noqa: ANN001
    silence = np.zeros(8000, np.float32)
    assert np.isfinite(metric(silence, noise(0)))
    assert np.isfinite(metric(noise(0), silence))
    assert metric(silence, silence) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_unusable_signals_are_refused(metric) -> None:  # noqa: ANN001
    broken = noise(0)
    broken[5] = np.nan
    for bad in (broken, np.zeros(0, np.float32), np.zeros((2, 8000), np.float32)):
        with pytest.raises(TimbreflowError):
            metric(bad, noise(0))


def test_a_frame_less_is_forgiven_and_a_second_is_not() -> None:
    sound = noise(0, seconds=2.0)
    assert lsd(sound[:-300], sound) < 1.0
    with pytest.raises(TimbreflowError, match="equal lengths"):
        lsd(sound[:16_000], sound)


def test_spectrograms_of_other_shapes_are_refused() -> None:
    for shapes in (((4, 3), (4, 2)), ((5, 3), (4, 3)), ((12,), (12,)), ((2, 4, 3), (2, 4, 3))):
        with pytest.raises(TimbreflowError, match="one shape") as refusal:
            decibel_distance(*map(np.zeros, shapes))
        assert all(str(shape) in str(refusal.value) for shape in shapes)


def test_lsd_is_in_decibels_of_power_however_large() -> None:
    """Single precision would lose the difference of a thousandth of a dB at 10,000 dB."""
    far = np.full((3, 5), 1e4)
    assert decibel_distance(far + 1e-3, far) == pytest.approx(1e-3, rel=1e-6)
    assert decibel_distance(far.tolist(), (far + 1e-3).tolist()) == pytest.approx(1e-3, rel=1e-6)
