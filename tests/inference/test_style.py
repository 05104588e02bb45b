"""Fitting the style at test time, and converting: what only the flow can do."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import soundfile
import torch

from tests.inference.tiny import FEATURES, build, melody
from timbreflow.errors import TimbreflowError
from timbreflow.inference.style import MAX_DISTANCE, fit_style
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.glow.model import Glow

RATE = FEATURES.sample_rate


@pytest.fixture
def flow() -> Glow:
    """An untrained flow that hears its style: a fresh one starts as the identity and would have nothing to fit."""
    glow = cast(Glow, build("glow")).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in glow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return glow


@pytest.fixture(scope="module")
def session(bundles: dict[str, Path]) -> TimbreTransfer:
    loaded = TimbreTransfer.load(bundles["glow"])
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in cast(Glow, loaded.synthesizer.model).parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return loaded


def reference() -> torch.Tensor:
    return torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(5))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_fit_makes_the_reference_likelier_and_leaves_the_weights(flow: Glow) -> None:
    style, before = reference(), {name: value.clone() for name, value in flow.state_dict().items()}
    flow.train()
    with torch.inference_mode():
        fitted = fit_style(flow, style, steps=20, noise=0.1, generator=seeded())
    start = flow.eval().style_encoder(style)
    assert fitted.bits_per_dim_after < fitted.bits_per_dim_before - 1e-3
    assert fitted.tokens.shape == start.shape
    move = float((fitted.tokens - start).detach().square().mean().sqrt())
    assert 0 < move <= MAX_DISTANCE * 1.001
    assert not fitted.tokens.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    assert all(parameter.grad is None for parameter in flow.parameters())


def test_the_fit_puts_the_model_back_into_its_mode(flow: Glow) -> None:
    for training in (True, False):
        flow.train(training)
        fit_style(flow, reference(), steps=1, noise=0.1, generator=seeded())
        assert flow.training == training


def test_the_generator_alone_decides(flow: Glow) -> None:
    first = fit_style(flow, reference(), steps=3, noise=0.1, generator=seeded())
    torch.rand(5)
    again = fit_style(flow, reference(), steps=3, noise=0.1, generator=seeded())
    assert torch.equal(first.tokens, again.tokens)


def test_steps_that_do_harm_are_taken_back_and_none_leaves_the_known_region(flow: Glow) -> None:
    wild = fit_style(flow, reference(), steps=3, learning_rate=100.0, noise=0.1, generator=seeded())
    start = flow.style_encoder(reference()).detach()
    assert wild.bits_per_dim_after <= wild.bits_per_dim_before
    assert float((wild.tokens - start).square().mean().sqrt()) <= MAX_DISTANCE * 1.001


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"steps": 0}, "at least 1 step"), ({"noise": 0.0}, "noise"), ({"learning_rate": float("nan")}, "learning rate")],
)
def test_settings_that_mean_nothing_are_refused(flow: Glow, changed: dict[str, float], message: str) -> None:
    settings: dict[str, float] = {"steps": 3, "noise": 0.1, **changed}
    with pytest.raises(TimbreflowError, match=message):
        fit_style(flow, reference(), **settings, generator=None)  # type: ignore[arg-type]
    with pytest.raises(TimbreflowError, match="one clip"):
        fit_style(flow, reference().repeat(2, 1, 1), steps=1, noise=0.1, generator=None)


def test_given_tokens_of_the_encoder_are_the_plain_transfer(flow: Glow) -> None:
    content, style = reference(), reference().flip(-1)
    with torch.inference_mode():
        own, other = flow.style_encoder(content), flow.style_encoder(style)
        plain = flow.transfer(content, style, generator=seeded())
        assert torch.equal(flow.transfer_with_tokens(content, other, generator=seeded()), plain)
        assert torch.equal(flow.convert_with_tokens(content, own, other), flow.convert(content, content, style))


def test_a_fitted_style_is_heard_and_told(session: TimbreTransfer, tmp_path: Path) -> None:
    content, style = melody(1.5, RATE), melody(1, RATE, seed=1)
    plain = session.transfer(content, style, temperature=0.0)
    fitted = session.transfer(content, style, temperature=0.0, fit_style=5)
    assert np.abs(fitted - plain).max() > 1e-3
    for name, sound in (("content", content), ("style", style)):
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE, subtype="FLOAT")
    result = session.transfer_file(
        tmp_path / "content.wav", tmp_path / "style.wav", tmp_path / "out.wav", temperature=0.0, fit_style=5
    )
    assert "bits per dimension" in result.notes[-1]
    np.testing.assert_allclose(soundfile.read(tmp_path / "out.wav")[0], fitted, atol=2e-4)


def test_a_style_that_pairs_share_is_fitted_once(
    session: TimbreTransfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", melody(1, RATE), RATE)
    soundfile.write(tmp_path / "b.wav", melody(1, RATE, seed=7), RATE)
    (tmp_path / "pairs.csv").write_text("id,content,style\n1,a.wav,b.wav\n2,b.wav,b.wav\n")
    calls: list[int] = []

    def counting(*args: object, **settings: object) -> object:
        calls.append(1)
        return fit_style(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("timbreflow.inference.style.fit_style", counting)
    written = session.transfer_pairs(tmp_path / "pairs.csv", tmp_path / "out", fit_style=2)
    assert len(written) == 2
    assert len(calls) == 1


def test_converting_to_its_own_style_gives_the_content_back(
    session: TimbreTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, heard = melody(8, RATE), []
    invert = session.synthesizer.invert
    monkeypatch.setattr(
        session.synthesizer, "invert", lambda features, *, seed: heard.append(features) or invert(features)
    )
    for style in (content, melody(2, RATE, seed=1)):
        session.transfer(content, style, mode="convert")
    back, other = (session.synthesizer.normalizer.normalize(features) for features in heard)
    gain = 10 ** (-23 / 20) / np.sqrt(np.mean(content**2))
    was = session.synthesizer.normalizer.normalize(session.synthesizer.extract(torch.from_numpy(gain * content)[None]))
    assert float((back - was).abs().max()) < 0.01
    assert float((other - was).abs().max()) > 0.1


@pytest.mark.parametrize("n", [1, 300, RATE // 10])
def test_contents_of_any_length_convert(session: TimbreTransfer, n: int) -> None:
    content = 0.3 * np.ones(n, np.float32) if n < 1000 else melody(1, RATE)[:n]
    out = session.transfer(content, melody(1, RATE), mode="convert")
    assert out.shape == (n,)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("asked", [{"fit_style": 5}, {"mode": "convert"}])
def test_only_a_flow_can(bundles: dict[str, Path], tmp_path: Path, asked: dict[str, object]) -> None:
    vqvae = TimbreTransfer.load(bundles["vqvae"])
    sound = melody(1, RATE)
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    (tmp_path / "pairs.csv").write_text("id,content,style\n1,a.wav,a.wav\n")
    for attempt in (
        lambda: vqvae.transfer(sound, sound, **asked),
        lambda: vqvae.transfer_file(tmp_path / "a.wav", tmp_path / "a.wav", tmp_path / "o.wav", **asked),
        lambda: vqvae.transfer_pairs(tmp_path / "pairs.csv", tmp_path / "out", **asked),
    ):
        with pytest.raises(TimbreflowError, match="needs a flow .* this is a vqvae; use a glow") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "pairs.csv"]


@pytest.mark.parametrize("asked", [{"fit_style": -1}, {"mode": "blend"}])
def test_options_that_mean_nothing_are_refused(session: TimbreTransfer, asked: dict[str, object]) -> None:
    with pytest.raises(TimbreflowError, match=next(iter(asked))):
        session.transfer(melody(1, RATE), melody(1, RATE), **asked)
