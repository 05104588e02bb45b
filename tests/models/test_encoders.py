"""Encoders keep time, take any length, and their augmentations only rearrange what is there."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import change_rate, pad_frames
from timbreflow.models.encoders import (
    ContentConfig,
    StyleConfig,
    StyleEncoder,
    build_content_encoder,
    roll_bins,
    shuffle_chunks,
)


@settings(deadline=None, max_examples=40)
@given(
    frames=st.integers(1, 37),
    downsample=st.sampled_from([1, 2, 4]),
    encoder=st.sampled_from(["residual", "strided"]),
    instance=st.booleans(),
)
def test_content_keeps_time_at_any_length(frames: int, downsample: int, encoder: str, instance: bool) -> None:
    if encoder == "strided" and downsample == 1:
        return
    config = ContentConfig(encoder, 8, downsample, 1, instance, 0, 0)  # type: ignore[arg-type]
    code = build_content_encoder(config, n_features=6, code_dim=4)(torch.randn(1, 6, frames))
    assert code.shape == (1, 4, -(-frames // downsample))
    assert torch.isfinite(code).all()


def test_content_code_is_in_step_with_the_clip() -> None:
    torch.manual_seed(0)
    encoder = build_content_encoder(ContentConfig("strided", 8, 4, 0, False, 0, 0), n_features=6, code_dim=4)
    x = torch.randn(1, 6, 64)
    changed = x.clone()
    changed[..., 40:44] += 1
    difference = (encoder(x) - encoder(changed)).abs().sum((0, 1))
    assert difference.nonzero().flatten().tolist() == [9, 10, 11]


@pytest.mark.parametrize(("encoder", "tokens"), [("tokens", 3), ("gru", 1)])
@pytest.mark.parametrize("frames", [1, 7, 40])
def test_style_takes_any_length(encoder: str, tokens: int, frames: int) -> None:
    config = StyleConfig(encoder, 8, 4, tokens, 1, 8, 2, 0.1)  # type: ignore[arg-type]
    model = StyleEncoder(config, n_features=6)
    assert model(torch.randn(2, 6, frames)).shape == (2, tokens, 4)
    model.eval()
    x = torch.randn(2, 6, frames)
    assert torch.equal(model(x), model(x))


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, 60), chunk=st.integers(1, 20), seed=st.integers(0, 10))
def test_shuffling_keeps_every_chunk(frames: int, chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.arange(2 * 3 * frames).view(2, 3, frames).float()
    shuffled = shuffle_chunks(x, chunk)
    whole = frames // chunk * chunk
    assert torch.equal(shuffled[..., whole:], x[..., whole:])
    for before, after in zip(x, shuffled, strict=True):
        chunks = {tuple(c.flatten().tolist()) for c in before[:, :whole].split(chunk, dim=1)} if whole else set()
        moved = {tuple(c.flatten().tolist()) for c in after[:, :whole].split(chunk, dim=1)} if whole else set()
        assert chunks == moved


def test_shuffling_shuffles() -> None:
    torch.manual_seed(0)
    x = torch.arange(64.0).expand(4, 2, 64)
    shuffled = shuffle_chunks(x, 8)
    assert not torch.equal(shuffled, x)
    assert not torch.equal(shuffled[0], shuffled[1])


def test_rolling_shifts_and_repeats_the_edge() -> None:
    torch.manual_seed(0)
    x = torch.arange(1.0, 9.0)[None, :, None].expand(50, 8, 3)
    rolled = roll_bins(x, 2)
    shifts = set()
    for clip in rolled:
        shift = next(s for s in range(-2, 3) if torch.equal(clip[:, 0], (torch.arange(8) - s).clamp(0, 7) + 1.0))
        shifts.add(shift)
    assert shifts == {-2, -1, 0, 1, 2}


def test_no_frames_is_one_sentence() -> None:
    with pytest.raises(TimbreflowError, match="shorter than one analysis frame"):
        pad_frames(torch.zeros(1, 2, 0), 4)


def test_change_rate_round_trip() -> None:
    x = torch.randn(1, 2, 5)
    torch.testing.assert_close(change_rate(change_rate(x, 4, 1), 1, 4), x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ContentConfig("residual", 8, 3, 1, False, 0, 0),
        lambda: ContentConfig("strided", 8, 1, 1, False, 0, 0),
        lambda: ContentConfig("residual", 8, 2, 1, False, 0, 4),
        lambda: StyleConfig("gru", 8, 4, 2, 1, 8, 2, 0.1),
        lambda: StyleConfig("tokens", 8, 4, 0, 1, 8, 2, 0.1),
    ],
)
def test_impossible_shapes_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(TimbreflowError, match=r"params\.yaml"):
        make()
