"""Laws of every flow layer, with all parameters randomised: inverse, log-determinant, gradient, masks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from timbreflow.models.glow.actnorm import ActNorm
from timbreflow.models.glow.context import FlowContext
from timbreflow.models.glow.coupling import AffineCoupling, CouplingConfig
from timbreflow.models.glow.flow import Flow, FlowStep
from timbreflow.models.glow.invertible_conv import InvertibleConv
from timbreflow.models.glow.squeeze import Split, Squeeze

C, T = 6, 4
NORMED = CouplingConfig(context_channels=5, style_dim=3, hidden=8, n_layers=2, kernel=3, bound=2.0, style_norm=True)
PLAIN = replace(NORMED, style_norm=False)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "actnorm": lambda: ActNorm(C),
    "invertible_conv": lambda: InvertibleConv(C),
    "coupling": lambda: AffineCoupling(C, PLAIN),
    "coupling_style_norm": lambda: AffineCoupling(C, NORMED),
    "coupling_odd": lambda: AffineCoupling(C - 1, NORMED),
    "step": lambda: FlowStep(C, NORMED),
}


def context(batch: int, frames: int, dtype: torch.dtype, mask: Tensor | None = None) -> FlowContext:
    return FlowContext(torch.randn(batch, 5, frames, dtype=dtype), torch.randn(batch, 3, dtype=dtype), mask)


def made(name: str, randomize: Callable[[nn.Module, float], None], dtype: torch.dtype) -> tuple[Any, int]:
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    randomize(layer, 0.3)
    return layer, C - 1 if name == "coupling_odd" else C


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_inverse(
    name: str, randomize: Callable[[nn.Module, float], None], dtype: torch.dtype, tolerance: float
) -> None:
    layer, channels = made(name, randomize, dtype)
    x, given = torch.randn(3, channels, 16, dtype=dtype), context(3, 16, dtype)
    z, log_det = layer(x, given)
    assert z.shape == x.shape
    assert log_det.shape == (3,)
    assert (z - x).abs().mean() > 0.01
    assert (layer.inverse(z, given) - x).norm() / x.norm() < tolerance
    assert (layer(layer.inverse(x, given), given)[0] - x).norm() / x.norm() < tolerance


@pytest.mark.parametrize("name", LAYERS)
def test_log_det_is_the_jacobians(name: str, randomize: Callable[[nn.Module, float], None]) -> None:
    layer, channels = made(name, randomize, torch.float64)
    x, given = torch.randn(2, channels, T, dtype=torch.float64), context(2, T, torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v, given)[0], x)
    _, log_det = layer(x, given)
    for clip in range(2):
        block = jacobian[clip, :, :, clip].reshape(channels * T, channels * T)
        torch.testing.assert_close(torch.linalg.slogdet(block)[1], log_det[clip])


@pytest.mark.parametrize("name", LAYERS)
def test_gradient_reaches_every_parameter(name: str, randomize: Callable[[nn.Module, float], None]) -> None:
    layer, channels = made(name, randomize, torch.float64)
    z, log_det = layer(torch.randn(3, channels, 8, dtype=torch.float64), context(3, 8, torch.float64))
    ((z**2).sum() - log_det.sum()).backward()
    assert [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def flow(n_levels: int, randomize: Callable[[nn.Module, float], None], dtype: torch.dtype) -> Flow:
    torch.manual_seed(0)
    model = Flow(3, NORMED, n_levels=n_levels, n_steps=2).to(dtype)
    randomize(model, 0.1)
    return model


def contexts(n_levels: int, frames: int, dtype: torch.dtype, mask: Tensor | None = None) -> list[FlowContext]:
    masks = [None if mask is None else mask[..., :: 2 ** (i + 1)] for i in range(n_levels)]
    return [context(2, frames // 2 ** (i + 1), dtype, masks[i]) for i in range(n_levels)]


@pytest.mark.parametrize("n_levels", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_flow_inverse(
    n_levels: int, randomize: Callable[[nn.Module, float], None], dtype: torch.dtype, tolerance: float
) -> None:
    model = flow(n_levels, randomize, dtype)
    x, given = torch.randn(2, 3, 16, dtype=dtype), contexts(n_levels, 16, dtype)
    z, _ = model(x, given)
    assert sum(latent[0].numel() for latent in z) == x[0].numel()
    assert (model.inverse(z, given) - x).norm() / x.norm() < tolerance


@pytest.mark.parametrize("n_levels", [1, 2])
def test_flow_log_det_is_the_jacobians(n_levels: int, randomize: Callable[[nn.Module, float], None]) -> None:
    model = flow(n_levels, randomize, torch.float64)
    x, given = torch.randn(2, 3, 8, dtype=torch.float64), contexts(n_levels, 8, torch.float64)

    def flat(v: Tensor) -> Tensor:
        return torch.cat([latent.flatten(1) for latent in model(v, given)[0]], dim=1)

    jacobian = torch.autograd.functional.jacobian(flat, x)
    for clip in range(2):
        block = jacobian[clip, :, clip].reshape(24, 24)
        torch.testing.assert_close(torch.linalg.slogdet(block)[1], model(x, given)[1][clip])


def test_frames_that_do_not_count_change_neither_latents_nor_log_det(
    randomize: Callable[[nn.Module, float], None],
) -> None:
    model = flow(2, randomize, torch.float64)
    mask = torch.ones(2, 1, 16)
    mask[..., 8:] = 0
    given = contexts(2, 16, torch.float64, mask)
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    other = torch.cat([x[..., :8], torch.randn(2, 3, 8, dtype=torch.float64)], dim=-1)
    (z, log_det), (z_other, log_det_other) = model(x, given), model(other, given)
    torch.testing.assert_close(log_det, log_det_other)
    torch.testing.assert_close(z[0][..., :4], z_other[0][..., :4])
    torch.testing.assert_close(z[1][..., :2], z_other[1][..., :2])


def test_actnorm_starts_from_data_only_when_told(randomize: Callable[[nn.Module, float], None]) -> None:
    layer, x, given = ActNorm(C), 3 + 5 * torch.randn(4, C, 50), context(4, 50, torch.float32)
    assert torch.equal(layer(x, given)[0], x)
    z = layer.initialize(x, given)
    torch.testing.assert_close(z.mean((0, 2)), torch.zeros(C), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2), correction=0), torch.ones(C), atol=1e-4, rtol=0)
    before = layer.shift.clone()
    layer(2 * x, given)
    assert torch.equal(layer.shift, before)


def test_actnorm_survives_a_silent_channel() -> None:
    layer = ActNorm(C)
    assert torch.isfinite(layer.initialize(torch.zeros(2, C, 5), context(2, 5, torch.float32))).all()


def test_flow_initialize_leaves_unit_latents(randomize: Callable[[nn.Module, float], None]) -> None:
    torch.manual_seed(0)
    model = Flow(3, NORMED, n_levels=2, n_steps=2)
    x, given = 4 + 3 * torch.randn(2, 3, 128), contexts(2, 128, torch.float32)
    model.initialize(x, given)
    for latent in model(x, given)[0]:
        assert float(latent.detach().std()) == pytest.approx(1, abs=0.15)


def test_squeeze_and_split_are_permutations() -> None:
    x = torch.randn(2, 6, 8)
    squeezed = Squeeze()(x)
    assert squeezed.shape == (2, 12, 4)
    assert torch.equal(squeezed[:, :6], x[..., ::2])
    assert torch.equal(squeezed[:, 6:], x[..., 1::2])
    assert torch.equal(Squeeze().inverse(squeezed), x)
    assert torch.equal(Split().inverse(*Split()(x)), x)


def test_log_scales_are_bounded() -> None:
    torch.manual_seed(0)
    layer = AffineCoupling(C, PLAIN)
    with torch.no_grad():
        layer.network.outlet.weight.fill_(100)
    _, log_det = layer(100 * torch.randn(2, C, T), context(2, T, torch.float32))
    assert (log_det.abs() <= 2.0 * C / 2 * T + 1e-4).all()


def test_new_coupling_is_the_identity() -> None:
    layer = AffineCoupling(C, NORMED)
    x = torch.randn(2, C, T)
    z, log_det = layer(x, context(2, T, torch.float32))
    assert torch.equal(z, x)
    assert torch.equal(log_det, torch.zeros(2))
