"""What only the Glow promises: exact likelihood, conversion, differentiable samples."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.glow.model import MAX_FEATURE, Glow, GlowConfig

M = 12


@pytest.fixture
def model(either_glow_config: GlowConfig, randomize: Callable[[nn.Module, float], None]) -> Glow:
    torch.manual_seed(0)
    made = Glow(either_glow_config)
    randomize(made, 0.1)
    return made.eval()


def clips(frames: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x, content, style = (torch.randn(2, M, frames, generator=generator) for _ in range(3))
    return x, content, style


def test_inverse_of_the_whole_model(model: Glow) -> None:
    x, content, style = clips(64)
    out = model(x, content, style)
    back = model.from_residual(model.flow.inverse(out.likelihood.z, out.conditions.contexts), out.conditions)
    assert (back - x).norm() / x.norm() < 1e-4


def test_likelihood_adds_up(model: Glow) -> None:
    x, content, style = clips(16)
    out = model(x, content, style)
    found = out.likelihood
    by_hand = torch.zeros(2)
    for z, mean, log_sigma in zip(found.z, out.conditions.means, out.conditions.log_sigmas, strict=True):
        by_hand += torch.distributions.Normal(mean, log_sigma.exp()).log_prob(z).sum((1, 2))
    torch.testing.assert_close(found.log_prior, by_hand)
    torch.testing.assert_close(found.nll, -(by_hand + found.log_det))
    torch.testing.assert_close(found.bits_per_dim, found.nll / (M * 16) / math.log(2))


def test_frames_that_fill_up_to_the_multiple_do_not_count(model: Glow) -> None:
    x, content, style = clips(2 * model.flow.multiple + 1)
    whole = 2 * model.flow.multiple
    out = model(x, content, style)
    assert [z.shape[-1] << (level + 1) for level, z in enumerate(out.likelihood.z)] == [whole] * len(out.likelihood.z)
    torch.testing.assert_close(out.likelihood.bits_per_dim, out.likelihood.nll / (M * whole) / math.log(2))
    # The last frame is no part of it, and the others have the density that they have under the same conditions.
    x[..., whole:] = 9.0
    torch.testing.assert_close(model.likelihood(x, out.conditions).nll, out.likelihood.nll)
    z, log_det = model.flow(
        model.to_residual(x[..., :whole], out.conditions.first(whole)), out.conditions.first(whole).contexts
    )
    assert [latent.shape for latent in z] == [latent.shape for latent in out.likelihood.z]
    torch.testing.assert_close(log_det, out.likelihood.log_det)
    with pytest.raises(TimbreflowError, match="needs 4 frames"):
        model(*(clip[..., :3] for clip in clips()))


def test_density_integrates_to_one(
    either_glow_config: GlowConfig, randomize: Callable[[nn.Module, float], None]
) -> None:
    """One bin and two frames: the density on a fine grid of the plane sums to 1."""
    torch.manual_seed(0)
    config = replace(either_glow_config, n_features=1, n_levels=1, condition_dropout=0.0)
    model = Glow(config)
    randomize(model, 0.1)
    model.eval()
    content, style = torch.randn(1, 1, 2), torch.randn(1, 1, 8)
    axis = torch.linspace(-16, 16, 641)
    grid = torch.cartesian_prod(axis, axis)[:, None]
    with torch.no_grad():
        code, tokens = model.content_path(content).code, model.style_encoder(style)
        n = len(grid)
        conditions = model.condition(code.expand(n, -1, -1), tokens.expand(n, -1, -1), frames=2)
        total = (-model.likelihood(grid, conditions).nll).exp().sum() * 0.05**2
    assert float(total) == pytest.approx(1, abs=0.02)


def test_convert_to_its_own_style_is_the_identity(model: Glow) -> None:
    x, _, style = clips(21)
    torch.testing.assert_close(model.convert(x, style, style), x, rtol=1e-3, atol=1e-3)
    assert (model.convert(x, style, style.flip(0)) - x).abs().mean() > 1e-3


def test_temperature_zero_is_the_mode_of_the_latents_and_differentiable(model: Glow) -> None:
    x, content, style = clips()
    out = model(x, content, style)
    # A transfer is clamped, which the far outputs of an untrained flow notice.
    middle = model.sample(out.conditions, temperature=0.0).clamp(-MAX_FEATURE, MAX_FEATURE)
    torch.testing.assert_close(middle, model.transfer(content, style, temperature=0.0))
    style = style.clone().requires_grad_()
    model.transfer(content, style, temperature=0.0).abs().sum().backward()
    assert style.grad is not None
    assert style.grad.abs().sum() > 0


def test_temperature_widens_the_samples(model: Glow) -> None:
    _, content, style = clips()
    middle = model.transfer(content, style, temperature=0.0)

    def spread(temperature: float) -> float:
        generator = torch.Generator().manual_seed(0)
        return float(
            (model.transfer(content, style, temperature=temperature, generator=generator) - middle).detach().std()
        )

    assert 0 < spread(0.1) < spread(0.7) < spread(1.0)


def test_initialize_is_a_pass_of_its_own(either_glow_config: GlowConfig) -> None:
    torch.manual_seed(0)
    model = Glow(either_glow_config).eval()
    x, content, style = clips(64)
    x = 4 + 3 * x
    before = model(x, content, style).likelihood.nll_per_dim.mean()
    assert torch.equal(before, model(x, content, style).likelihood.nll_per_dim.mean())
    model.initialize(x, content, style)
    assert model(x, content, style).likelihood.nll_per_dim.mean() < before - 1


def test_style_can_be_fitted_by_likelihood(model: Glow) -> None:
    x, content, style = clips(32)
    code = model.content_path(content).code.detach()
    tokens = model.style_encoder(style).detach().requires_grad_()
    optimizer = torch.optim.Adam([tokens], 0.05)
    history = []
    for _ in range(15):
        nll = model.likelihood(x, model.condition(code, tokens, frames=32)).nll_per_dim.mean()
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()
        history.append(float(nll))
    assert history[-1] < history[0]


def test_a_broken_flow_is_refused_and_a_rare_overflow_repaired(model: Glow, monkeypatch: pytest.MonkeyPatch) -> None:
    _, content, style = clips(100)
    made = torch.randn(2, M, 100)
    monkeypatch.setattr(model, "sample", lambda *_, **__: made)
    made.view(-1)[:3] = torch.tensor([math.inf, -math.inf, 1e30])
    made.view(-1)[3:14] = math.nan  # 11 of the clip's 1,200 values
    result = model.transfer(content, style)
    assert result.view(-1)[:4].tolist() == [10.0, -10.0, 10.0, 0.0]
    assert result.isfinite().all()
    made.view(-1)[3:16] = math.nan  # 13 of one clip's, which the other does not thin out
    with pytest.raises(TimbreflowError, match="gave NaN in 1% of its values; train it again or lower the temperature"):
        model.transfer(content, style)


def test_impossible_flows_are_refused(either_glow_config: GlowConfig) -> None:
    for change in (
        {"kernel": 4},
        {"n_levels": 0},
        {"n_steps": 0},
        {"n_layers": 0},
        {"max_log_scale": 0.0},
        {"max_log_scale": -1.0},
        {"decoder_width": -1},
        {"decoder_blocks": -1},
    ):
        with pytest.raises(TimbreflowError, match=next(iter(change))):
            replace(either_glow_config, **change)


def test_the_smallest_flow_is_a_flow(glow_config: GlowConfig, randomize: Callable[[nn.Module, float], None]) -> None:
    torch.manual_seed(0)
    smallest = replace(glow_config, n_levels=1, n_steps=1, n_layers=1, kernel=1, decoder_blocks=0, max_log_scale=0.01)
    made = Glow(smallest).eval()
    randomize(made, 0.1)
    x, content, style = clips(2)
    out = made(x, content, style)
    assert [z.shape for z in out.likelihood.z] == [(2, 2 * M, 1)]
    torch.testing.assert_close(made.flow.inverse(out.likelihood.z, out.conditions.contexts), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 8, 37])
def test_each_level_has_conditions_for_its_frames(model: Glow, frames: int) -> None:
    _, content, style = clips(frames)
    found = model.condition(model.content_path(content).code, model.style_encoder(style), frames=frames)
    padded = -(-frames // 4) * 4
    assert found.frames == frames
    assert [tuple(level.features.shape) for level in found.contexts] == [(2, 16, padded // 2), (2, 16, padded // 4)]
    assert [tuple(level.style.shape) for level in found.contexts] == [(2, 16), (2, 16)]
    shapes = [(2, M, padded // 2), (2, 2 * M, padded // 4)]
    assert [tuple(mean.shape) for mean in found.means] == shapes
    assert [tuple(log_sigma.shape) for log_sigma in found.log_sigmas] == shapes
    assert all(log_sigma.abs().max() <= 2.0 for log_sigma in found.log_sigmas)


def test_the_prior_follows_the_content_alone_and_the_layers_follow_both(model: Glow) -> None:
    _, content, style = clips(16)
    code, tokens = model.content_path(content).code, model.style_encoder(style)
    own = model.condition(code, tokens, frames=16)
    other_style = model.condition(code, tokens.flip(0), frames=16)
    other_notes = model.condition(code.flip(0), tokens, frames=16)
    for level in range(2):
        assert torch.equal(own.means[level], other_style.means[level])
        assert torch.equal(own.log_sigmas[level], other_style.log_sigmas[level])
        assert not torch.allclose(own.means[level], other_notes.means[level])
        for other in (other_style, other_notes):
            assert not torch.allclose(own.contexts[level].features, other.contexts[level].features)
        assert torch.equal(own.contexts[level].style, other_notes.contexts[level].style)
        assert not torch.allclose(own.contexts[level].style, other_style.contexts[level].style)


def test_a_prediction_conditions_the_layers_of_its_own_frames(
    glow_config: GlowConfig, randomize: Callable[[nn.Module, float], None]
) -> None:
    torch.manual_seed(0)
    made = Glow(replace(glow_config, decoder_width=24, decoder_blocks=1)).eval()
    randomize(made, 0.1)
    code, tokens = torch.randn(2, made.content_path.code_dim, 16), torch.randn(2, 2, 8)
    first, second = torch.randn(2, M, 32), torch.randn(2, M, 32)
    second[..., :16] = first[..., :16]
    own, other = (
        made.condition_network(code, tokens, frames=32, prediction=prediction) for prediction in (first, second)
    )
    for level in range(2):
        assert torch.equal(own.means[level], other.means[level])
        same = (own.contexts[level].features == other.contexts[level].features).all(1).all(0).tolist()
        # A stride of 2 over 4 frames: one frame of the level looks over the edge.
        n = 16 >> (level + 1)
        assert same == [True] * (n - 1) + [False] * (n + 1)
    assert other.prediction is second


def test_conditions_of_the_first_frames_are_the_first_conditions(model: Glow) -> None:
    _, content, style = clips(16)
    whole = model.condition(model.content_path(content).code, model.style_encoder(style), frames=16)
    cut = whole.first(8)
    assert cut.frames == 8
    for level, length in ((0, 4), (1, 2)):
        assert torch.equal(cut.contexts[level].features, whole.contexts[level].features[..., :length])
        assert torch.equal(cut.contexts[level].style, whole.contexts[level].style)
        assert torch.equal(cut.means[level], whole.means[level][..., :length])
        assert torch.equal(cut.log_sigmas[level], whole.log_sigmas[level][..., :length])
    if whole.prediction is None:
        assert cut.prediction is None
    else:
        assert cut.prediction is not None and torch.equal(cut.prediction, whole.prediction[..., :8])


def test_a_new_prior_is_the_standard_normal(either_glow_config: GlowConfig) -> None:
    new = Glow(either_glow_config)
    _, content, style = clips(16)
    found = new.condition(new.content_path(content).code, new.style_encoder(style), frames=16)
    assert not any(value.any() for value in (*found.means, *found.log_sigmas))
