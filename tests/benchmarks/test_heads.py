"""Heads in place of the flow: true densities that learn what they are for."""

import dataclasses
from typing import Literal

import pytest
import torch

from benchmarks.heads import KINDS, Head, HeadObjective
from tests.inference import tiny
from timbreflow.audio.features import Normalizer
from timbreflow.data.triples import TripleBatch
from timbreflow.models.glow.model import Glow


@pytest.fixture(scope="module")
def glow() -> Glow:
    built = tiny.build("glow")
    assert isinstance(built, Glow)
    return Glow(dataclasses.replace(built.config, decoder_width=16, decoder_blocks=1)).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_each_value_has_a_density_of_integral_one(glow: Glow, kind: Literal["laplace", "mixture"]) -> None:
    torch.manual_seed(3)
    head = Head(kind, glow)
    torch.nn.init.normal_(head.network[-1].weight, std=0.05)  # type: ignore[arg-type]
    content, style = torch.randn(1, 40, 6), torch.randn(1, 40, 9)
    grid = torch.arange(-60.0, 60.0, 0.02)
    density = head(glow, content, style).log_prob(grid.view(-1, 1, 1, 1)).exp()
    torch.testing.assert_close(density.sum(0) * 0.02, torch.ones(1, 40, 6), atol=1e-3, rtol=1e-3)
    assert head(glow, content, style).sample().shape == (1, 40, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_bits_of_a_target_that_the_style_tells(
    glow: Glow, kind: Literal["laplace", "mixture"]
) -> None:
    torch.manual_seed(4)
    style = torch.randn(4, 40, 1).expand(-1, -1, 8).contiguous()
    same = Normalizer(torch.zeros(40), torch.ones(40))
    batch = TripleBatch(torch.randn(4, 40, 8), style, style, torch.zeros(4, 128, 8), torch.arange(4))
    head, objective = Head(kind, glow), HeadObjective(glow, same, same, noise=0.1)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    before = float(objective.validate(head, batch)["bits_per_dim"])
    for step in range(60):
        optimizer.zero_grad()
        objective(head, batch, step=step)["loss"].backward()
        optimizer.step()
    after = float(objective.validate(head, batch)["bits_per_dim"])
    # Noise of .1 alone has log2(.1 sqrt(2 pi e)) = -1.27 bits.
    assert -1.4 < after < before - 1.0
    wrong = head.bits(glow, batch.content, batch.style.roll(1, dims=0), batch.target).mean()
    assert float(wrong) > after + 1.0
