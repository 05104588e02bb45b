"""The timbre metric's network."""

import warnings
from dataclasses import replace

import pytest
import torch

from timbreflow.errors import TimbreflowError
from timbreflow.models.timbre_metric import TripletConfig, TripletNetwork


@pytest.mark.parametrize("frames", [1, 60, 128, 256, 300])
def test_any_length(triplet_config: TripletConfig, frames: int) -> None:
    model = TripletNetwork(triplet_config).eval()
    embedding = model.embed(torch.randn(2, 12, frames))
    assert embedding.shape == (2, 16)
    assert torch.isfinite(embedding).all()


def test_shape_is_the_papers(triplet_config: TripletConfig) -> None:
    model = TripletNetwork(replace(triplet_config, channels=64))
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv1d)]
    assert [(c.out_channels, c.kernel_size) for c in convolutions] == [(64, (k,)) for k in (4, 4, 4, 2)]
    assert model.blocks(torch.randn(2, 12, 256)).shape == (2, 64, 2)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_convolutions_keep_the_length_as_torchs_same_does_without_its_warning(kernel: int) -> None:
    model = TripletNetwork(TripletConfig(12, 16, (kernel,)))
    convolution = model.blocks[0]
    same = torch.nn.Conv1d(12, 16, kernel, padding="same")
    same.load_state_dict(convolution.state_dict())
    x = torch.randn(2, 12, 33)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = convolution(x)
        model.embed(x)
    torch.testing.assert_close(found, same(x))
    assert isinstance(convolution, torch.nn.Conv1d)
    assert convolution.padding == (0,), "torch's own padding is what warns, once in a process"


def test_learns_to_tell_two_timbres(triplet_config: TripletConfig) -> None:
    torch.manual_seed(0)
    model = TripletNetwork(triplet_config)
    centres = torch.randn(2, 1, 12, 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def hinge() -> torch.Tensor:
        anchor, positive, negative = (centres[i] + torch.randn(8, 12, 128) for i in (0, 0, 1))
        a, p, n = (model.embed(x) for x in (anchor, positive, negative))
        near, far = torch.cosine_similarity(a, p), torch.cosine_similarity(a, n)
        return (0.1 + far - near).clamp_min(0).mean()

    first = float(hinge())
    for _ in range(60):
        optimizer.zero_grad()
        loss = hinge()
        loss.backward()
        optimizer.step()
    assert float(hinge()) < 0.5 * first


def test_no_blocks_is_refused() -> None:
    with pytest.raises(TimbreflowError, match="kernels"):
        TripletConfig(12, 16, ())
