"""What musicians set: styles that are blended, strength, transposition, mix, loudness, stereo, cancelling."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.inference.tiny import melody
from timbreflow.errors import Cancelled, TimbreflowError
from timbreflow.inference.style import Reference, blend, moved
from timbreflow.inference.synthesis import TransferOptions
from timbreflow.inference.transfer import TimbreTransfer

RATE = 16000
CONTENT, STYLE, OTHER = melody(9.3, RATE, level=0.05), melody(2, RATE, seed=1), melody(3, RATE, seed=8, level=0.3)


@pytest.fixture(scope="module", params=["vqvae", "glow"])
def session(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> TimbreTransfer:
    """With random weights everywhere: an untrained flow has zeros where its conditions come in."""
    made = TimbreTransfer.load(bundles[request.param])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in made.bundle.model.parameters():
            weights.add_(0.03 * torch.randn(weights.shape, generator=generator))
    return made


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


def test_strength_goes_from_the_contents_own_timbre_to_the_styles(session: TimbreTransfer) -> None:
    own = session.transfer(CONTENT, CONTENT)
    np.testing.assert_allclose(session.transfer(CONTENT, STYLE, strength=0.0), own, atol=1e-4)
    full = session.transfer(CONTENT, STYLE)
    np.testing.assert_allclose(session.transfer(CONTENT, STYLE, strength=1.0 - 1e-7), full, atol=1e-3)
    assert np.abs(full - own).max() > 2e-4
    assert np.abs(session.transfer(CONTENT, STYLE, strength=1.5) - full).max() > 2e-4


def test_tokens_beyond_the_style_are_no_longer_than_those_they_are_made_of() -> None:
    generator = torch.Generator().manual_seed(0)
    own, style = torch.randn(2, 1, 4, 8, generator=generator)
    for strength in (0.0, 0.3, 1.0):
        torch.testing.assert_close(moved(own, style, strength), own + strength * (style - own))
    beyond = moved(own, style, 1.5)
    longest = torch.maximum(own.norm(dim=-1), style.norm(dim=-1))
    assert (beyond.norm(dim=-1) <= longest + 1e-5).all()
    straight = own + 1.5 * (style - own)
    assert torch.nn.functional.cosine_similarity(beyond, straight, dim=-1).min() > 0.9999


def test_a_blend_is_between_its_styles_by_weight(session: TimbreTransfer) -> None:
    alone, other = session.transfer(CONTENT, STYLE), session.transfer(CONTENT, OTHER)
    both = [STYLE, OTHER]
    np.testing.assert_array_equal(session.transfer(CONTENT, both, blend=(3, 0)), alone)
    np.testing.assert_array_equal(session.transfer(CONTENT, both, blend=(0, 1)), other)
    np.testing.assert_array_equal(
        session.transfer(CONTENT, both, blend=(0.5, 0.5)), session.transfer(CONTENT, both, blend=(2, 2))
    )
    assert np.abs(session.transfer(CONTENT, both) - alone).max() > 2e-4


def test_the_frames_of_a_blend_come_by_weight() -> None:
    ones, twos = (Reference(torch.full((1, 2, n), value), value) for n, value in ((6, 1.0), (8, 2.0)))
    mixed = blend([ones, twos], (1, 3))
    assert mixed.features[0, 0].tolist() == [1.0] * 2 + [2.0] * 6
    assert mixed.level == pytest.approx(1.75)


def test_attacks_are_those_of_the_heaviest_style() -> None:
    soft, sharp = (Reference(torch.zeros(1, 2, 3), 1.0, rise) for rise in (float("inf"), 0.002))
    assert blend([soft, sharp], (1, 3)).rise == 0.002
    assert blend([soft, sharp], (3, 1)).rise == float("inf")


@pytest.mark.parametrize(("strength", "own"), [(0.3, True), (0.7, False), (1.3, False)])
def test_a_weak_style_leaves_the_contents_attacks(vqvae: TimbreTransfer, strength: float, own: bool) -> None:
    content, style = vqvae._given(CONTENT, STYLE, None, None, TransferOptions())
    options = TransferOptions(strength=strength)
    wanted = vqvae.styles.reference(content).rise if own else style.rise
    request = vqvae.player._track(content, [0], style, options).stream.request
    assert request is not None
    assert request.rises == (wanted,)
    assert vqvae.styles.reference(content).rise != style.rise


def test_a_weaker_style_leaves_frames_to_the_contents_own_timbre(vqvae: TimbreTransfer) -> None:
    content, style = vqvae._given(CONTENT, STYLE, None, None, TransferOptions())
    weak = vqvae.styles.weakened(content, style, TransferOptions(strength=0.25)).features
    own, full = vqvae.styles.features_of(content), style.features
    n_own = round(0.75 * weak.shape[-1])
    torch.testing.assert_close(weak[..., :n_own], own[..., :n_own])
    torch.testing.assert_close(weak[..., n_own:], full[..., : weak.shape[-1] - n_own])
    assert vqvae.styles.weakened(content, style, TransferOptions(strength=1.2)) is style


@pytest.mark.parametrize(
    ("count", "weights", "message"),
    [
        (5, (), "5 styles are given; give one to 4"),
        (0, (), "0 styles are given"),
        (2, (1,), "1 weights for 2 styles"),
        (2, (0, 0), "one above 0"),
        (2, (1, -1), "weights of 0 or more"),
        (2, (1, float("nan")), "weights of 0 or more"),
    ],
)
def test_blends_that_mean_nothing(count: int, weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(TimbreflowError, match=message):
        blend([Reference(torch.zeros(1, 2, 3), 1.0)] * count, weights)


@pytest.mark.parametrize(
    "asked",
    [
        {"strength": 1.6},
        {"strength": -0.1},
        {"strength": float("nan")},
        {"transpose": 30},
        {"mix": 1.1},
        {"expression": "maybe"},
        {"loudness": "loud"},
        {"stereo": "wide"},
    ],
    ids=str,
)
def test_options_that_mean_nothing(asked: dict[str, Any]) -> None:
    with pytest.raises(TimbreflowError, match=f"{next(iter(asked))} is .*(give a number from|choose)"):
        TransferOptions(**asked)


def test_the_mix_is_in_sync_to_the_sample(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    wet = vqvae.transfer(CONTENT, STYLE)
    np.testing.assert_allclose(vqvae.transfer(CONTENT, STYLE, mix=0.0), CONTENT, atol=1e-6)
    np.testing.assert_allclose(vqvae.transfer(CONTENT, STYLE, mix=0.25), 0.25 * wet + 0.75 * CONTENT, atol=1e-5)
    soundfile.write(tmp_path / "content.wav", CONTENT, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "style.wav", STYLE, RATE, subtype="FLOAT")
    vqvae.transfer_file(tmp_path / "content.wav", tmp_path / "style.wav", tmp_path / "out.wav", mix=0.25)
    np.testing.assert_allclose(soundfile.read(tmp_path / "out.wav")[0], 0.25 * wet + 0.75 * CONTENT, atol=2e-4)


def test_loudness_is_the_contents_or_the_styles(vqvae: TimbreTransfer) -> None:
    kept, matched = vqvae.transfer(CONTENT, OTHER), vqvae.transfer(CONTENT, OTHER, loudness="match")
    assert rms(kept) == pytest.approx(rms(CONTENT), rel=0.02)
    assert rms(matched) == pytest.approx(rms(OTHER), rel=0.1)


def test_mid_keeps_what_the_channels_differ_by(vqvae: TimbreTransfer) -> None:
    stereo = np.stack([CONTENT, 0.5 * melody(9.3, RATE, seed=4, level=0.05)])
    made = vqvae.transfer(stereo, STYLE, stereo="mid")
    np.testing.assert_allclose(made[0] - made[1], stereo[0] - stereo[1], atol=1e-5)
    middle = vqvae.transfer(stereo.mean(axis=0), STYLE)
    np.testing.assert_allclose(made.mean(axis=0), middle, atol=1e-3)
    np.testing.assert_array_equal(vqvae.transfer(CONTENT, STYLE, stereo="mid"), vqvae.transfer(CONTENT, STYLE))


def test_channels_are_transferred_alone(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    three = np.stack([CONTENT, np.zeros_like(CONTENT), 0.5 * melody(9.3, RATE, seed=4)])
    made = vqvae.transfer(three, STYLE, stereo="channels")
    np.testing.assert_allclose(made[0], vqvae.transfer(three[0], STYLE), atol=1e-5)
    np.testing.assert_allclose(made[2], vqvae.transfer(three[2], STYLE), atol=1e-5)
    assert not made[1].any()
    soundfile.write(tmp_path / "content.wav", three.T, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "style.wav", STYLE, RATE, subtype="FLOAT")
    vqvae.transfer_file(tmp_path / "content.wav", tmp_path / "style.wav", tmp_path / "out.wav", stereo="channels")
    np.testing.assert_allclose(soundfile.read(tmp_path / "out.wav")[0].T, made, atol=2e-4)


def test_a_transposed_content_is_as_long_and_other_notes(vqvae: TimbreTransfer) -> None:
    made = vqvae.transfer(CONTENT, STYLE, transpose=5.0)
    assert made.shape == CONTENT.shape
    assert np.abs(made - vqvae.transfer(CONTENT, STYLE)).max() > 1e-3


def test_cancelling_leaves_nothing(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "content.wav", melody(80, RATE), RATE)
    soundfile.write(tmp_path / "style.wav", STYLE, RATE)
    (tmp_path / "out.wav").write_bytes(b"before")
    asked: list[float] = []
    with pytest.raises(Cancelled):
        vqvae.transfer_file(
            tmp_path / "content.wav",
            tmp_path / "style.wav",
            tmp_path / "out.wav",
            progress=asked.append,
            cancel=lambda: len(asked) >= 3,
        )
    assert len(asked) == 3
    assert (tmp_path / "out.wav").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["content.wav", "out.wav", "style.wav"]


def test_the_active_part_of_a_style(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "style.wav", np.concatenate([np.zeros(10 * RATE), melody(30, RATE)]), RATE)
    start, end = vqvae.active_part(tmp_path / "style.wav")
    assert start >= 9.9
    assert end - start == pytest.approx(16, abs=0.1)
