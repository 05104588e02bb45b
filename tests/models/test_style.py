"""The style encoder takes any length, and its augmentations only rearrange what is there."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.models.style import StyleConfig, build_style_encoder, shift_bins, shuffle_chunks


@pytest.mark.parametrize(("encoder", "tokens"), [("tokens", 3), ("gru", 1)])
@pytest.mark.parametrize("frames", [1, 7, 40])
def test_style_takes_any_length(encoder: str, tokens: int, frames: int) -> None:
    config = StyleConfig(encoder, 8, 4, tokens, 1, 8, 2, 0.1)  # type: ignore[arg-type]
    model = build_style_encoder(config, n_features=6)
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


def test_bins_are_shifted_and_the_edge_is_repeated() -> None:
    torch.manual_seed(0)
    x = torch.arange(1.0, 9.0)[None, :, None].expand(50, 8, 3)
    shifted = shift_bins(x, 2)
    shifts = set()
    for clip in shifted:
        shift = next(s for s in range(-2, 3) if torch.equal(clip[:, 0], (torch.arange(8) - s).clamp(0, 7) + 1.0))
        shifts.add(shift)
    assert shifts == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize(("encoder", "tokens"), [("gru", 2), ("tokens", 0)])
def test_impossible_numbers_of_tokens_are_refused(encoder: str, tokens: int) -> None:
    with pytest.raises(TimbreflowError, match="style.n_tokens"):
        StyleConfig(encoder, 8, 4, tokens, 1, 8, 2, 0.1)  # type: ignore[arg-type]
