"""What every transfer model must do, the VQ-VAE in both recipes and the Glow alike."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.base import TransferModel
from timbreflow.models.bundle import build_model
from timbreflow.models.glow.model import Glow, GlowConfig
from timbreflow.models.vqvae import VQVAE, VQVAEConfig

M = 12
KindConfig = tuple[str, Any]


def built(kind_config: KindConfig, randomize: Callable[[nn.Module, float], None], scale: float = 0.1) -> Any:
    torch.manual_seed(3)
    model = build_model(kind_config[0], asdict(kind_config[1]))
    randomize(model, scale)
    return model


@pytest.mark.parametrize("frames", [1, 2, 5, 37, 64])
def test_any_length(
    transfer_kind_config: KindConfig, randomize: Callable[[nn.Module, float], None], frames: int
) -> None:
    model = built(transfer_kind_config, randomize).eval()
    assert isinstance(model, TransferModel)
    for style_frames in (1, 33):
        out = model.transfer(torch.randn(1, M, frames), torch.randn(1, M, style_frames))
        assert out.shape == (1, M, frames)
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()


def test_transfer_is_deterministic_under_a_seed(
    transfer_kind_config: KindConfig, randomize: Callable[[nn.Module, float], None]
) -> None:
    model = built(transfer_kind_config, randomize).eval()
    content, style = torch.randn(2, M, 20), torch.randn(2, M, 20)

    def sample(seed: int) -> Tensor:
        return model.transfer(content, style, temperature=0.7, generator=torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    assert torch.equal(sample(1), sample(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sample(1), sample(2)) is (transfer_kind_config[0] == "vqvae")


def test_clips_of_a_batch_do_not_mix(
    transfer_kind_config: KindConfig, randomize: Callable[[nn.Module, float], None]
) -> None:
    model = built(transfer_kind_config, randomize).eval()
    content, style = torch.randn(3, M, 20), torch.randn(3, M, 20)
    together = model.transfer(content, style, temperature=0.0)
    alone = model.transfer(content[1:2], style[1:2], temperature=0.0)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-3)


def test_style_and_content_change_the_output(
    transfer_kind_config: KindConfig, randomize: Callable[[nn.Module, float], None]
) -> None:
    model = built(transfer_kind_config, randomize, 0.2).eval()
    content, style = torch.randn(2, M, 20), torch.randn(2, M, 20)
    out = model.transfer(content, style, temperature=0.0)
    swapped = model.transfer(content, style.flip(0), temperature=0.0)
    assert (out - swapped).abs().mean() > 1e-3
    other = model.transfer(content.flip(0), style, temperature=0.0)
    assert (out - other).abs().mean() > 1e-3


def losses(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(model, Glow):
        noisy = batch["target"] + 0.1 * torch.randn_like(batch["target"])
        out = model(noisy, batch["content"], batch["style"])
        main = out.likelihood.nll_per_dim.mean()
    else:
        out = model(batch["content"], batch["style"])
        main = (out.prediction - batch["target"]).abs().mean()
    found = {"main": main, "commitment": out.content.commitment_loss}
    if out.content.pianoroll_logits is not None:
        found["roll"] = F.binary_cross_entropy_with_logits(out.content.pianoroll_logits, batch["roll"].float())
    return found


def test_gradient_reaches_every_parameter(
    transfer_kind_config: KindConfig,
    randomize: Callable[[nn.Module, float], None],
    toy_batch: Callable[[int, int], dict[str, Tensor]],
) -> None:
    kind, config = transfer_kind_config
    if config.condition_dropout:
        config = replace(config, condition_dropout=0.5)  # so that both learned constants are surely used
    model = built((kind, config), randomize).train()
    sum(losses(model, toy_batch(8, 32)).values(), torch.zeros(())).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_autocast_gives_full_precision_results(
    transfer_kind_config: KindConfig,
    randomize: Callable[[nn.Module, float], None],
    toy_batch: Callable[[int, int], dict[str, Tensor]],
) -> None:
    model = built(transfer_kind_config, randomize).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(model, toy_batch(4, 32))
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in found.values())
    sum(found.values(), torch.zeros(())).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("recipe", ["base", "paper", "glow"])
def test_overfits_one_batch(
    recipe: str,
    base_config: VQVAEConfig,
    paper_config: VQVAEConfig,
    glow_config: GlowConfig,
    toy_batch: Callable[[int, int], dict[str, Tensor]],
) -> None:
    torch.manual_seed(0)
    batch = toy_batch(8, 32)
    model: nn.Module
    if recipe == "glow":
        model = Glow(replace(glow_config, condition_dropout=0.0))
        model.initialize(batch["target"] + 0.1 * torch.randn_like(batch["target"]), batch["content"], batch["style"])
    else:
        model = VQVAE(replace({"base": base_config, "paper": paper_config}[recipe], condition_dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    history = []
    for _ in range(60):
        found = losses(model, batch)
        optimizer.zero_grad()
        sum(found.values(), torch.zeros(())).backward()
        optimizer.step()
        history.append({name: float(value) for name, value in found.items()})
    first, last = history[0], {k: sum(h[k] for h in history[-5:]) / 5 for k in history[0]}
    if recipe == "glow":
        assert last["main"] < first["main"] - 0.7  # nats a dimension
    else:
        assert last["main"] < 0.7 * first["main"]
    if "roll" in first:
        assert last["roll"] < 0.5 * first["roll"]


def test_evaluation_mode_draws_nothing(
    transfer_kind_config: KindConfig, randomize: Callable[[nn.Module, float], None]
) -> None:
    model = built(transfer_kind_config, randomize).eval()
    content, style = torch.randn(1, M, 20), torch.randn(1, M, 20)
    state = torch.get_rng_state()
    first = model.transfer(content, style, temperature=0.0)
    assert torch.equal(first, model.transfer(content, style, temperature=0.0))
    assert torch.equal(torch.get_rng_state(), state)
