"""Content encoders keep time and take any length."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import change_rate, pad_frames
from timbreflow.models.content import ContentConfig, build_content_encoder


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


def test_no_frames_is_one_sentence() -> None:
    with pytest.raises(TimbreflowError, match="shorter than one analysis frame"):
        pad_frames(torch.zeros(1, 2, 0), 4)


def test_change_rate_round_trip() -> None:
    x = torch.randn(1, 2, 5)
    torch.testing.assert_close(change_rate(change_rate(x, 4, 1), 1, 4), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContentConfig("residual", 8, 3, 1, False, 0, 0), "content.downsample is 3"),
        (lambda: ContentConfig("strided", 8, 1, 1, False, 0, 0), "content.downsample is 1"),
        (lambda: ContentConfig("residual", 8, 2, 1, False, 0, 4), "content.pianoroll_head_width"),
    ],
)
def test_impossible_shapes_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TimbreflowError, match=message):
        make()
