"""The checks themselves: a good model passes, each kind of bad one fails."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.chroma import chroma_similarity
from tests.inference.tiny import build
from tests.released.checks import (
    closeness,
    inverse_error,
    log_det_error,
    pooled,
    pooled_latents,
    probe_accuracy,
    style_cost,
    style_swap,
)
from timbreflow.errors import TimbreflowError
from timbreflow.models.glow.layers import FlowContext
from timbreflow.models.glow.model import Glow

RATE = 16000


def tone(notes: list[int], partials: tuple[float, ...]) -> np.ndarray:
    """[N] float32: half a second a note."""
    time = np.arange(RATE // 2) / RATE
    parts = []
    for note in notes:
        frequency = 440 * 2 ** ((note - 69) / 12)
        waves = (gain * np.sin(2 * np.pi * frequency * (k + 1) * time) for k, gain in enumerate(partials))
        parts.append(sum(waves) * np.exp(-3 * time))
    return np.concatenate(parts).astype(np.float32)


MELODIES = [[60, 64, 67, 72], [62, 65, 69, 74], [61, 66, 70, 63], [59, 57, 68, 71]]
FLUTE, REED = (1.0, 0.1), (1.0, 0.0, 0.4, 0.0, 0.35, 0.0, 0.3, 0.0, 0.25)


def test_chroma_hears_notes_and_not_timbre() -> None:
    flute, reed, other = tone(MELODIES[0], FLUTE), tone(MELODIES[0], REED), tone(MELODIES[2], FLUTE)
    assert chroma_similarity(flute, 0.1 * flute) == pytest.approx(1.0, abs=1e-3)
    assert chroma_similarity(flute, reed) > chroma_similarity(flute, other) + 0.3
    silence = np.zeros_like(flute)
    assert chroma_similarity(silence, silence) == 1.0
    assert chroma_similarity(flute, silence) == 0.0


def test_a_swap_of_styles_shows_good_deaf_and_copying_models() -> None:
    timbres = [FLUTE, REED, FLUTE, REED]
    contents = [tone(melody, (1.0, 0.5)) for melody in MELODIES]
    styles = [tone([55, 58, 62, 65], timbre) for timbre in timbres]
    made = [tone(melody, timbre) for melody, timbre in zip(MELODIES, timbres, strict=True)]
    swapped = [tone(melody, timbre) for melody, timbre in zip(MELODIES, timbres[::-1], strict=True)]
    new = styles[::-1]
    good = style_swap(made, swapped, new)
    assert good.moved == 1.0
    assert good.distance_after < 0.5 * good.distance_before
    assert good.notes_kept > good.notes_of_others + 0.2
    assert style_swap(contents, contents, new).moved == 0.0
    copying = style_swap(styles, new, new)
    assert copying.distance_after == pytest.approx(0.0, abs=1e-6)
    assert copying.notes_kept < copying.notes_of_others + 0.2
    with pytest.raises(TimbreflowError, match="two clips"):
        style_swap(made[:1], swapped[:1], new[:1])


def test_closeness_is_bad_where_copies_are() -> None:
    target, content, style = tone(MELODIES[0], REED), tone(MELODIES[0], FLUTE), tone(MELODIES[2], REED)
    copied_content, copied_style, same = (closeness([sound], [target]) for sound in (content, style, target))
    assert same.lsd == pytest.approx(0.0, abs=1e-4)
    assert copied_content.timbre > 2 * copied_style.timbre
    assert copied_content.notes > copied_style.notes + 0.2


def test_a_probe_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 4, 200), np.arange(200) // 2
    blind = rng.standard_normal((200, 300))
    seeing = blind.copy()
    seeing[:, :4] += 6 * np.eye(4)[labels]
    assert probe_accuracy(blind, labels, groups) < 0.4
    assert probe_accuracy(seeing, labels, groups) > 0.8
    assert probe_accuracy(seeing, labels, groups) == probe_accuracy(seeing, labels, groups)


def test_a_probe_does_not_learn_from_the_group_that_it_is_tested_on() -> None:
    """Clips of one piece look alike and share a label here: recognising the piece must not help."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 5)
    labels = rng.integers(0, 4, 40)[groups]
    pieces = 5 * rng.standard_normal((40, 60))[groups] + 0.1 * rng.standard_normal((200, 60))
    assert probe_accuracy(pieces, labels, np.arange(200)) > 0.9
    assert probe_accuracy(pieces, labels, groups) < 0.5


def test_a_probe_refuses_too_little() -> None:
    with pytest.raises(TimbreflowError, match="5 groups"):
        probe_accuracy(np.zeros((8, 2)), np.arange(8) % 2, np.arange(8) // 2)
    with pytest.raises(TimbreflowError, match="equal lengths"):
        probe_accuracy(np.zeros((8, 2)), np.arange(7), np.arange(8))


def test_pooling_keeps_level_and_movement() -> None:
    clips = torch.stack([torch.full((3, 10), 2.0), torch.arange(30.0).view(3, 10)])
    assert pooled(clips).shape == (2, 6)
    assert pooled(clips)[0].tolist() == [2, 2, 2, 0, 0, 0]
    assert np.isfinite(pooled(clips[..., :1])).all()


@pytest.fixture
def glow() -> Glow:
    flow = build("glow").eval()
    assert isinstance(flow, Glow)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return flow


def clips(count: int, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(count, 40, frames, generator=generator) for _ in range(3))  # type: ignore[return-value]


def test_a_flow_inverts_and_knows_its_determinant(glow: Glow) -> None:
    x, content, style = clips(2, 4 * glow.flow.multiple)
    assert 0 < inverse_error(glow, x, content, style) < 1e-4
    x, content, style = clips(1, glow.flow.multiple)
    assert log_det_error(glow, x, content, style) < 1e-9
    assert next(glow.parameters()).dtype == torch.float32


def test_a_broken_flow_is_caught(glow: Glow, monkeypatch: pytest.MonkeyPatch) -> None:
    x, content, style = clips(1, glow.flow.multiple)
    genuine = type(glow.flow).forward

    def lying(self: nn.Module, given: Tensor, contexts: list[FlowContext]) -> tuple[list[Tensor], Tensor]:
        z, log_det = genuine(self, given, contexts)  # type: ignore[arg-type]
        return [latent * 1.01 for latent in z], log_det

    monkeypatch.setattr(type(glow.flow), "forward", lying)
    assert inverse_error(glow, x, content, style) > 1e-4
    assert log_det_error(glow, x, content, style) > 1e-3


def test_the_cost_of_a_wrong_style_has_the_sign_of_the_likelihood(glow: Glow) -> None:
    x, content, style = clips(3, 16)
    settings = {"noise": 0.1, "generator": torch.Generator().manual_seed(1)}
    cost = style_cost(glow, x, content, style, style.flip(0) + 1, **settings)  # type: ignore[arg-type]
    settings["generator"] = torch.Generator().manual_seed(1)
    back = style_cost(glow, x, content, style.flip(0) + 1, style, **settings)  # type: ignore[arg-type]
    np.testing.assert_allclose(cost, -back, atol=1e-6)
    assert np.abs(cost).max() > 0
    same = style_cost(glow, x, content, style, style, **settings)  # type: ignore[arg-type]
    np.testing.assert_array_equal(same, 0.0)


def test_latents_of_all_levels_are_pooled(glow: Glow) -> None:
    x, content, style = clips(3, 16)
    found = pooled_latents(glow, x, content, style, noise=0.1, generator=None)
    dimensions = sum(latent.shape[1] for latent in glow(x, content, style).likelihood.z)
    assert found.shape == (3, 2 * dimensions)
