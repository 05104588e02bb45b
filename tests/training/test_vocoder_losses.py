"""The vocoder's losses: 0 for equal sound, falling on one batch; two sides that leave each other's weights alone."""

import dataclasses

import pytest
import torch

from tests import small
from timbreflow.audio.features import Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.models.vocoder import Vocoder
from timbreflow.training.config import VocoderLosses
from timbreflow.training.discriminator import VocoderWithDiscriminator
from timbreflow.training.losses import MultiResolutionSTFT, adversarial_terms
from timbreflow.training.objectives import VocoderObjective

NORMALIZER = Normalizer(mean=torch.full((24,), -2.0), std=torch.full((24,), 2.0))
SHAPE = dataclasses.replace(small.VOCODER, width=24)
LOSSES = VocoderLosses(convergence=1.0, magnitude=1.0, mel=1.0, adversarial=0.0, feature_matching=0.0)
ADVERSARIAL = dataclasses.replace(LOSSES, adversarial=0.5, feature_matching=1.0)


def sound() -> torch.Tensor:
    """Four tones of 8 frames, the last one silent."""
    time = torch.arange(4000) / 16000
    return torch.stack(
        [level * torch.sin(2 * torch.pi * f * time) for f, level in ((220, 0.1), (330, 0.1), (495, 0.2), (0, 0))]
    )


def model(kind: type = Vocoder) -> torch.nn.Module:
    torch.manual_seed(0)
    vocoder = Vocoder(SHAPE)
    return vocoder if kind is Vocoder else VocoderWithDiscriminator(vocoder)


def objective(losses: VocoderLosses = LOSSES, noise: float = 0.0) -> VocoderObjective:
    return VocoderObjective(small.MELS, NORMALIZER, losses=losses, noise=noise)


def test_equal_sounds_cost_nothing_and_silence_is_finite() -> None:
    distance = MultiResolutionSTFT()
    x = sound()
    assert [float(term) for term in distance(x, x)] == [0.0, 0.0]
    silence = torch.zeros(2, 4000, requires_grad=True)
    convergence, magnitude = distance(silence, torch.zeros(2, 4000))
    (convergence + magnitude).backward()
    assert silence.grad is not None
    assert bool(torch.isfinite(silence.grad).all())
    near, far = (sum(distance(x + level * torch.randn_like(x), x)) for level in (0.001, 0.05))
    assert float(near) < float(far)


@pytest.mark.parametrize(("kind", "losses"), [(Vocoder, LOSSES), (VocoderWithDiscriminator, ADVERSARIAL)])
def test_loss_falls_on_one_batch(kind: type, losses: VocoderLosses) -> None:
    network, train = model(kind), objective(losses)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    first = float(train.validate(network, sound())["loss"].detach())
    for step in range(15):
        terms = train(network, sound(), step=step)
        assert all(term.ndim == 0 for term in terms.values())
        terms["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    last = float(train.validate(network, sound())["loss"].detach())
    assert last < 0.8 * first


def test_noise_is_for_training_only() -> None:
    network, noisy = model(), objective(noise=0.5)
    with torch.no_grad():
        assert float(noisy(network, sound(), step=0)["loss"]) != float(noisy(network, sound(), step=0)["loss"])
        clean = objective().validate(network, sound())["loss"]
        assert float(noisy.validate(network, sound())["loss"]) == float(clean)


def test_under_half_precision_the_losses_stay_single() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective()(model(), sound(), step=0)
    assert all(term.dtype == torch.float32 for term in terms.values())


def test_each_side_trains_its_own_weights() -> None:
    network = model(VocoderWithDiscriminator)
    assert isinstance(network, VocoderWithDiscriminator)
    features = torch.randn(2, 24, 8)
    discriminator, maker = network.discriminator, network.vocoder
    terms = adversarial_terms(discriminator, maker(features), sound()[:2])
    (terms["gan/vocoder"] + terms["gan/feature_matching"]).backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert any(bool(parameter.grad.any()) for parameter in maker.parameters() if parameter.grad is not None)
    maker.zero_grad(set_to_none=True)
    terms["gan/discriminator"].backward()
    assert all(parameter.grad is None for parameter in maker.parameters())
    # The last biases stand between a true and a made sound that score alike at first: their gradients cancel.
    moved = [name for name, weight in discriminator.named_parameters() if weight.grad is not None and weight.grad.any()]
    assert len(moved) >= len(list(discriminator.parameters())) - 3


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(TimbreflowError, match="mel"):
        dataclasses.replace(LOSSES, mel=-1.0)
    with pytest.raises(TimbreflowError, match="all 0"):
        dataclasses.replace(LOSSES, convergence=0.0, magnitude=0.0, mel=0.0)
