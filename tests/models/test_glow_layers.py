"""Laws of every flow layer, with all parameters randomised: shape, inverse, log-determinant, gradient, state."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.glow.flow import Flow, gaussian_log_prob, sample_gaussians
from timbreflow.models.glow.layers import (
    ActNorm,
    AffineCoupling,
    FlowContext,
    GatedNetwork,
    InvertibleConv,
    InvertibleLayer,
    InvertibleSequence,
    Squeeze,
    StyleNorm,
    soft_clamp,
)

C, T, STYLE, LIMIT = 6, 4, 3, 2.0
Randomize = Callable[[nn.Module, float], None]


def coupling(channels: int, *, normed: bool = True) -> AffineCoupling:
    norm = StyleNorm(channels, STYLE, max_log_scale=LIMIT) if normed else None
    return AffineCoupling(
        channels, context_channels=5, hidden_channels=8, n_layers=2, kernel=3, max_log_scale=LIMIT, style_norm=norm
    )


def step(channels: int) -> InvertibleSequence:
    return InvertibleSequence(actnorm=ActNorm(channels), mix=InvertibleConv(channels), coupling=coupling(channels))


LAYERS: dict[str, Callable[[], InvertibleLayer]] = {
    "squeeze": Squeeze,
    "actnorm": lambda: ActNorm(C),
    "invertible_conv": lambda: InvertibleConv(C),
    "style_norm": lambda: StyleNorm(C, STYLE, max_log_scale=LIMIT),
    "coupling": lambda: coupling(C, normed=False),
    "coupling_style_norm": lambda: coupling(C),
    "coupling_odd": lambda: coupling(C - 1),
    "step": lambda: step(C),
    "nested": lambda: InvertibleSequence(first=step(C), squeeze=Squeeze(), second=ActNorm(2 * C)),
}


def context(batch: int, frames: int, dtype: torch.dtype = torch.float32) -> FlowContext:
    return FlowContext(torch.randn(batch, 5, frames, dtype=dtype), torch.randn(batch, STYLE, dtype=dtype))


def made(name: str, randomize: Randomize, dtype: torch.dtype) -> tuple[InvertibleLayer, int]:
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    randomize(layer, 0.3)
    return layer, C - 1 if name == "coupling_odd" else C


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
@pytest.mark.parametrize("name", LAYERS)
def test_laws_of_a_layer(name: str, randomize: Randomize, dtype: torch.dtype, tolerance: float) -> None:
    layer, channels = made(name, randomize, dtype)
    x, given = torch.randn(2, channels, T, dtype=dtype), context(2, T, dtype)
    z, log_det = layer(x, given)
    assert z.numel() == x.numel() and z.shape[0] == 2
    assert log_det.shape == (2,)

    assert z.shape != x.shape or (z - x).abs().mean() > 0.01, "the identity would pass the rest"
    assert (layer.inverse(z, given) - x).norm() / x.norm() < tolerance
    if z.shape == x.shape:
        assert (layer(layer.inverse(x, given), given)[0] - x).norm() / x.norm() < tolerance

    if dtype == torch.float64:
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v, given)[0], x)
        for clip in range(2):
            block = jacobian[clip, :, :, clip].reshape(channels * T, channels * T)
            torch.testing.assert_close(torch.linalg.slogdet(block)[1], log_det[clip])

    (z**2).sum().sub(log_det.sum()).backward() if list(layer.parameters()) else None
    assert [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []

    again = LAYERS[name]().to(dtype)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x, given)[0], z)
    assert torch.equal(again(x, given)[1], log_det)


@pytest.mark.parametrize("name", LAYERS)
def test_initialize_gives_the_output_that_the_layer_then_has(name: str, randomize: Randomize) -> None:
    layer, channels = made(name, randomize, torch.float64)
    x, given = torch.randn(4, channels, 8, dtype=torch.float64), context(4, 8, torch.float64)
    torch.testing.assert_close(layer.initialize(x, given), layer(x, given)[0])


def flow(n_levels: int, randomize: Randomize, dtype: torch.dtype) -> Flow:
    torch.manual_seed(0)
    model = Flow(3, step, n_levels=n_levels, n_steps=2).to(dtype)
    randomize(model, 0.1)
    return model


def contexts(n_levels: int, frames: int, dtype: torch.dtype) -> list[FlowContext]:
    return [context(2, frames // 2 ** (i + 1), dtype) for i in range(n_levels)]


@pytest.mark.parametrize("n_levels", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_flow_inverse(n_levels: int, randomize: Randomize, dtype: torch.dtype, tolerance: float) -> None:
    model = flow(n_levels, randomize, dtype)
    x, given = torch.randn(2, 3, 16, dtype=dtype), contexts(n_levels, 16, dtype)
    z, _ = model(x, given)
    assert [latent.shape[1:] for latent in z] == [
        (3 if i < n_levels - 1 else 6, 16 // 2 ** (i + 1)) for i in range(n_levels)
    ]
    assert (model.inverse(z, given) - x).norm() / x.norm() < tolerance


def test_a_flow_wants_conditions_and_latents_for_each_level(randomize: Randomize) -> None:
    model, given = flow(2, randomize, torch.float32), contexts(2, 16, torch.float32)
    z, _ = model(torch.randn(2, 3, 16), given)
    for wrong in (([z[0], *z], given), (z, given[:1])):
        with pytest.raises(ValueError, match="zip"):
            model.inverse(*wrong)
    for count in (1, 3):
        with pytest.raises(ValueError, match="zip"):
            model(torch.randn(2, 3, 16), (given + given)[:count])


@pytest.mark.parametrize("n_levels", [1, 2])
def test_flow_log_det_is_the_jacobians(n_levels: int, randomize: Randomize) -> None:
    model = flow(n_levels, randomize, torch.float64)
    x, given = torch.randn(2, 3, 8, dtype=torch.float64), contexts(n_levels, 8, torch.float64)

    def flat(v: Tensor) -> Tensor:
        return torch.cat([latent.flatten(1) for latent in model(v, given)[0]], dim=1)

    jacobian = torch.autograd.functional.jacobian(flat, x)
    for clip in range(2):
        block = jacobian[clip, :, clip].reshape(24, 24)
        torch.testing.assert_close(torch.linalg.slogdet(block)[1], model(x, given)[1][clip])


def test_style_norm_in_a_coupling_equals_the_layer_before_it(randomize: Randomize) -> None:
    """The fold into one exponential: the other half is as after StyleNorm and a plain coupling."""
    layer, _ = made("coupling_style_norm", randomize, torch.float64)
    assert isinstance(layer, AffineCoupling) and layer.style_norm is not None
    plain = coupling(C, normed=False).double()
    plain.network.load_state_dict(layer.network.state_dict())
    x, given = torch.randn(2, C, T, dtype=torch.float64), context(2, T, torch.float64)
    z, log_det = layer(x, given)
    in_turn, log_det_in_turn = InvertibleSequence(norm=layer.style_norm, coupling=plain)(x, given)
    torch.testing.assert_close(z[:, C // 2 :], in_turn[:, C // 2 :])
    assert torch.equal(z[:, : C // 2], x[:, : C // 2])
    passing_log_std = layer.style_norm.statistics(given)[1][:, : C // 2]
    torch.testing.assert_close(log_det, log_det_in_turn + T * passing_log_std.sum((1, 2)))


def test_actnorm_starts_from_data_only_when_told() -> None:
    layer, x, given = ActNorm(C), 3 + 5 * torch.randn(4, C, 50), context(4, 50)
    assert torch.equal(layer(x, given)[0], x)
    z = layer.initialize(x, given)
    torch.testing.assert_close(z.mean((0, 2)), torch.zeros(C), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2), correction=0), torch.ones(C), atol=1e-4, rtol=0)
    before = layer.shift.clone()
    layer(2 * x, given)
    assert torch.equal(layer.shift, before)


def test_actnorm_survives_a_silent_channel() -> None:
    assert torch.isfinite(ActNorm(C).initialize(torch.zeros(2, C, 5), context(2, 5))).all()


def test_flow_initialize_leaves_unit_latents() -> None:
    torch.manual_seed(0)
    model = Flow(3, step, n_levels=2, n_steps=2)
    x, given = 4 + 3 * torch.randn(2, 3, 128), contexts(2, 128, torch.float32)
    model.initialize(x, given)
    for latent in model(x, given)[0]:
        assert float(latent.detach().std()) == pytest.approx(1, abs=0.15)


def test_squeeze_puts_the_earlier_frame_first() -> None:
    x = torch.randn(2, 6, 8)
    squeezed, _ = Squeeze()(x, context(2, 8))
    assert torch.equal(squeezed, torch.cat([x[..., ::2], x[..., 1::2]], dim=1))


def test_log_scales_are_bounded() -> None:
    torch.manual_seed(0)
    layer = coupling(C, normed=False)
    with torch.no_grad():
        layer.network.out_proj.weight.fill_(100)
    _, log_det = layer(100 * torch.randn(2, C, T), context(2, T))
    assert (log_det.abs() <= LIMIT * C / 2 * T + 1e-4).all()


@pytest.mark.parametrize("make", [lambda: coupling(C), lambda: StyleNorm(C, STYLE, max_log_scale=LIMIT)])
def test_new_coupling_and_style_norm_are_the_identity(make: Callable[[], InvertibleLayer]) -> None:
    x = torch.randn(2, C, T)
    z, log_det = make()(x, context(2, T))
    assert torch.equal(z, x)
    assert torch.equal(log_det, torch.zeros(2))


def test_soft_clamp_has_slope_one_at_zero_and_its_limit_far_out() -> None:
    x = torch.tensor([-1e6, -1.0, -1e-4, 0.0, 1e-4, 1.0, 1e6], dtype=torch.float64)
    expected = torch.tensor([-3.0, -3 * math.tanh(1 / 3), -1e-4, 0.0, 1e-4, 3 * math.tanh(1 / 3), 3.0]).double()
    torch.testing.assert_close(soft_clamp(x, 3.0), expected)


def test_a_new_convolution_is_a_rotation_and_no_two_are_the_same() -> None:
    torch.manual_seed(0)
    layer, other = InvertibleConv(C), InvertibleConv(C)
    given = context(1, C)
    matrix, log_det = layer(torch.eye(C)[None], given)
    torch.testing.assert_close(matrix[0] @ matrix[0].T, torch.eye(C), atol=1e-5, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(1), atol=1e-4, rtol=0)
    assert (matrix[0] - torch.eye(C)).abs().max() > 0.1
    assert not torch.allclose(matrix, other(torch.eye(C)[None], given)[0])


def test_a_convolution_can_be_counted_without_memory() -> None:
    with torch.device("meta"):
        layer = InvertibleConv(C)
    assert {tensor.device.type for tensor in (*layer.parameters(), *layer.buffers())} == {"meta"}
    assert sum(parameter.numel() for parameter in layer.parameters()) == C * C + C


def test_gated_network_is_the_sum_of_its_units(randomize: Randomize) -> None:
    """h <- h + tanh(conv(h)) sigmoid(gate), unit i with a dilation of 2^i and the length kept; written out."""
    torch.manual_seed(0)
    network = GatedNetwork(2, 4, context_channels=5, hidden_channels=8, n_layers=3, kernel=3).double()
    assert not network(torch.randn(1, 2, 9).double(), torch.randn(1, 5, 9).double()).any()
    randomize(network, 0.3)
    x, features = torch.randn(2, 2, 9).double(), torch.randn(2, 5, 9).double()
    state = network.state_dict()

    def conv(name: str, value: Tensor, dilation: int = 1) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        reach = dilation * (weight.shape[-1] // 2)
        wide = F.pad(value, (reach, reach))
        return bias[:, None] + sum(
            torch.einsum("oi,bit->bot", weight[..., k], wide[..., k * dilation : k * dilation + value.shape[-1]])
            for k in range(weight.shape[-1])
        )

    gates = conv("gates", features).sigmoid()
    h = conv("in_proj", x) + conv("inject", features)
    for i in range(3):
        h = h + conv(f"layers.{i}", h, 2**i).tanh() * gates[:, 8 * i : 8 * (i + 1)]
    torch.testing.assert_close(network(x, features), conv("out_proj", h))


def test_samples_are_mean_and_scaled_noise() -> None:
    means = [torch.randn(2, 3, 4), torch.randn(2, 6, 2)]
    log_sigmas = [0.3 * torch.randn_like(mean) for mean in means]

    def source(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    one = source(1)
    noise = [torch.randn(mean.shape, generator=one) for mean in means]
    for drawn, mean, log_sigma, x in zip(
        sample_gaussians(means, log_sigmas, 0.7, source(1)), means, log_sigmas, noise, strict=True
    ):
        torch.testing.assert_close(drawn, mean + 0.7 * log_sigma.exp() * x)
    # A source for each clip: the second clip gets what it gets alone.
    both = sample_gaussians(means, log_sigmas, 0.7, [source(1), source(2)])
    alone = sample_gaussians([m[1:] for m in means], [s[1:] for s in log_sigmas], 0.7, [source(2)])
    assert all(torch.equal(level[1:], own) for level, own in zip(both, alone, strict=True))
    assert not torch.equal(both[0][0] - means[0][0], both[0][1] - means[0][1])
    untouched = source(3)
    state = untouched.get_state()
    assert all(map(torch.equal, sample_gaussians(means, log_sigmas, 0, untouched), means))
    assert torch.equal(untouched.get_state(), state)


def test_gaussian_log_prob_is_torchs() -> None:
    z, mean, log_sigma = torch.randn(3, 2, 5, 7, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(z).sum((1, 2))
    torch.testing.assert_close(gaussian_log_prob(z, mean, log_sigma), expected)
