"""Laws of cutting and joining."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.inference.streaming.chunks import ChunkPlan, best_lag, cross_fade, cut, overlap_add


@st.composite
def plans(draw: st.DrawFn) -> ChunkPlan:
    fade = draw(st.integers(1, 60))
    margin = draw(st.integers(0, 20))
    overlap = fade + 2 * margin
    length = draw(st.integers(2 * overlap, 4 * overlap + 200))
    return ChunkPlan(length=length, fade=fade, margin=margin, max_lag=draw(st.integers(0, margin)))


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def in_blocks(signal: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(signal, np.cumsum(sizes)[np.cumsum(sizes) < len(signal)])


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(0, 3000), st.lists(st.integers(1, 700), max_size=8), st.integers(0, 99), st.booleans())
def test_joining_unchanged_chunks_gives_the_signal(
    plan: ChunkPlan, n: int, sizes: list[int], seed: int, periodic: bool
) -> None:
    # A periodic signal agrees with itself at many lags: none of them may be taken instead of 0.
    signal = np.sin(np.arange(n) * 0.3).astype(np.float32) if periodic else noise(n, seed)
    chunks = list(cut(in_blocks(signal, sizes), plan))
    assert len(chunks) == plan.count(n)
    whole = np.concatenate(list(overlap_add(chunks, plan, n)))
    np.testing.assert_allclose(whole, signal, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(1, 3000), st.integers(0, 99))
def test_the_whole_has_exactly_the_length_that_was_asked_for(plan: ChunkPlan, n: int, seed: int) -> None:
    """Also where chunks do not agree, so that they are moved."""
    chunks = [noise(len(chunk), seed + i) for i, chunk in enumerate(cut([noise(n, seed)], plan))]
    assert sum(len(part) for part in overlap_add(chunks, plan, n)) == n


def test_silence_stays_silence() -> None:
    plan = ChunkPlan(length=100, fade=10, margin=8, max_lag=5)
    whole = np.concatenate(list(overlap_add(cut([np.zeros(357, np.float32)], plan), plan, 357)))
    assert whole.shape == (357,)
    assert not whole.any()


@pytest.mark.parametrize("lag", [-7, -1, 0, 3, 8])
def test_a_moved_chunk_is_moved_back(lag: int) -> None:
    signal = noise(200, 1)
    tail = signal[50:100]
    assert best_lag(tail, signal[50 - 8 - lag : 100 + 8 - lag]) == lag


def test_a_joint_of_the_same_tone_in_another_phase_keeps_its_level() -> None:
    """The case for which chunks are moved and faded by agreement: a plain linear fade dips by 3 dB and more here."""
    rate, plan = 16000, ChunkPlan(length=16000, fade=2400, margin=400, max_lag=160)
    time = np.arange(plan.length) / rate
    random = np.random.default_rng(3)
    chunks = [
        np.sin(2 * np.pi * 220 * (time + k * plan.hop / rate) + random.uniform(0, 2 * np.pi)).astype(np.float32)
        for k in range(4)
    ]
    whole = np.concatenate(list(overlap_add(chunks, plan, 3 * plan.hop + plan.length)))
    frames = whole[: len(whole) // 400 * 400].reshape(-1, 400)[1:-1]
    level = 10 * np.log10(np.mean(frames**2, axis=1) / 0.5)
    assert np.abs(level).max() < 0.5


def test_a_fade_between_strangers_keeps_its_power() -> None:
    faded = np.array([cross_fade(noise(64, 2 * i), noise(64, 2 * i + 1)) for i in range(2000)])
    assert np.abs(10 * np.log10(np.mean(faded**2, axis=0))).max() < 0.6


@pytest.mark.parametrize(
    ("length", "fade", "margin", "max_lag"),
    [(100, 0, 0, 0), (100, 10, 5, -1), (100, 10, 5, 6), (100, 51, 0, 0), (100, 20, 16, 1)],
)
def test_a_plan_without_room_is_refused(length: int, fade: int, margin: int, max_lag: int) -> None:
    with pytest.raises(ValueError, match="fade"):
        ChunkPlan(length=length, fade=fade, margin=margin, max_lag=max_lag)
