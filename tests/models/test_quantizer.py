"""The quantiser picks the nearest code, lets gradients through and keeps its codebook in the state dict."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from timbreflow.errors import TimbreflowError
from timbreflow.models.quantizer import QuantizerConfig, build_quantizer


def config(heads: int = 1, distance: str = "euclidean") -> QuantizerConfig:
    return QuantizerConfig(
        codebook_size=16,
        code_dim=8,
        heads=heads,
        distance=distance,  # type: ignore[arg-type]
        decay=0.9,
        dead_code_threshold=0.1,
        kmeans_iters=3,
    )


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("heads", [1, 2])
def test_nearest_code_is_nearest(heads: int, distance: str, trained: bool) -> None:
    quantizer = build_quantizer(config(heads, distance))
    if trained:
        for _ in range(3):
            quantizer(torch.randn(4, 8, 30))
    quantizer.eval()
    x = torch.randn(3, 8, 7)
    found = quantizer(x)
    for head in range(heads):
        part = x.chunk(heads, dim=1)[head].transpose(1, 2)  # [B, t, d]
        index = found.codes // 16**head % 16
        if distance == "cosine":
            distances = -F.cosine_similarity(part[:, :, None], quantizer.codebooks[head], dim=-1)
        else:
            distances = (part[:, :, None] - quantizer.codebooks[head]).norm(dim=-1)
        torch.testing.assert_close(distances.gather(2, index[..., None])[..., 0], distances.amin(-1))
        chosen = quantizer.codebooks[head][index].transpose(1, 2)
        torch.testing.assert_close(found.quantized.chunk(heads, dim=1)[head], chosen)


@pytest.mark.parametrize("heads", [1, 2])
def test_training_and_evaluation_agree(heads: int) -> None:
    quantizer = build_quantizer(config(heads))
    for _ in range(3):
        quantizer(torch.randn(4, 8, 30))
    x = torch.randn(2, 8, 5)
    evaluated = quantizer.eval()(x)
    trained = quantizer.train()(x)  # uses the codebook as it was before this batch moves it
    torch.testing.assert_close(trained.quantized, evaluated.quantized)
    assert torch.equal(trained.codes, evaluated.codes)
    torch.testing.assert_close(trained.commitment_loss, evaluated.commitment_loss)


@pytest.mark.parametrize("training", [False, True])
def test_gradient_passes_straight_through(training: bool) -> None:
    quantizer = build_quantizer(config(2)).train(training)
    x = torch.randn(2, 8, 10, requires_grad=True)
    weights = torch.randn(2, 8, 10)
    (quantizer(x).quantized * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights)


def test_commitment_pulls_the_input_towards_its_code() -> None:
    quantizer = build_quantizer(config())
    quantizer(torch.randn(4, 8, 30))
    x = torch.randn(2, 8, 10, requires_grad=True)
    found = quantizer(x)
    found.commitment_loss.backward()
    assert x.grad is not None
    direction = (found.quantized - x).detach()
    assert F.cosine_similarity(-x.grad.flatten(), direction.flatten(), dim=0) > 0.999


def test_evaluation_changes_nothing_and_draws_nothing() -> None:
    quantizer = build_quantizer(config()).eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    state = torch.get_rng_state()
    first, second = quantizer(torch.ones(1, 8, 4)), quantizer(torch.ones(1, 8, 4))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_codebook_travels_in_the_state_dict() -> None:
    torch.manual_seed(0)
    first, second = build_quantizer(config(2)), build_quantizer(config(2))
    for _ in range(3):
        first(torch.randn(4, 8, 30))
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 8, 9)
    assert torch.equal(first.eval()(x).codes, second.eval()(x).codes)


def test_float32_inside_under_autocast() -> None:
    quantizer = build_quantizer(config()).eval()
    x = torch.randn(4, 8, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = quantizer(x)
    assert reduced.quantized.dtype == torch.float32
    assert torch.equal(reduced.codes, quantizer(x).codes)


def test_dead_codes_are_revived() -> None:
    torch.manual_seed(0)
    quantizer = build_quantizer(replace(config(), dead_code_threshold=0.5))
    quantizer(torch.randn(4, 8, 50))
    for _ in range(60):  # the data moves far away: without revival nearly all codes would stay behind
        found = quantizer(torch.randn(4, 8, 50) + 20)
    assert found.perplexity > 8


def test_perplexity_bounds() -> None:
    quantizer = build_quantizer(config()).eval()
    assert quantizer(torch.ones(1, 8, 40)).perplexity == pytest.approx(1.0)
    assert 1 <= quantizer(torch.randn(1, 8, 400)).perplexity <= 16


def test_heads_must_divide_the_code() -> None:
    with pytest.raises(TimbreflowError, match="heads"):
        config(3)
