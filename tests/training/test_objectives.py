"""Each term has a gradient where it belongs, goes down on one structured batch, and prefers what is right."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from timbreflow.data.triples import TripleBatch
from timbreflow.errors import TimbreflowError
from timbreflow.models.content import ContentConfig
from timbreflow.models.glow.model import Glow, GlowConfig
from timbreflow.models.quantizer import QuantizerConfig
from timbreflow.models.style import StyleConfig
from timbreflow.models.timbre_metric import TripletConfig, TripletNetwork
from timbreflow.models.vqvae import VQVAE, VQVAEConfig
from timbreflow.training.config import AuxiliaryWeights
from timbreflow.training.losses import contrastive_loss, invariance_loss, roll_loss
from timbreflow.training.objectives import GlowObjective, TripletObjective, VQVAEObjective
from timbreflow.training.triplets import TripletBatch

BINS, FRAMES, SIZE = 12, 32, 8
CONTENT = ContentConfig(
    encoder="residual",
    width=24,
    downsample=2,
    n_blocks=1,
    instance_norm=False,
    pianoroll_head_width=16,
    pianoroll_channels=4,
)
QUANTIZER = QuantizerConfig(
    codebook_size=32, code_dim=16, heads=1, distance="euclidean", decay=0.9, dead_code_threshold=0.5, kmeans_iters=5
)
STYLE = StyleConfig(
    encoder="tokens", width=16, dim=8, n_tokens=2, n_blocks=1, chunk_frames=8, max_bin_shift=0, noise=0.0
)
WEIGHTS = AuxiliaryWeights(
    commitment=0.25, roll=0.1, roll_pos_weight=5.0, invariance=0.1, contrastive=0.1, contrastive_temperature=0.2
)


def vqvae() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(
        VQVAEConfig(
            n_features=BINS,
            content=CONTENT,
            quantizer=QUANTIZER,
            style=STYLE,
            decoder="film",
            width=32,
            n_blocks=2,
            condition_dropout=0.0,
        )
    )


def glow() -> Glow:
    torch.manual_seed(0)
    return Glow(
        GlowConfig(
            n_features=BINS,
            content=CONTENT,
            quantizer=QUANTIZER,
            style=STYLE,
            decoder_width=24,
            decoder_blocks=1,
            context_width=24,
            n_context_blocks=1,
            n_levels=2,
            n_steps=2,
            hidden_channels=24,
            n_layers=2,
            kernel=3,
            max_log_scale=3.0,
            style_norm=True,
            condition_dropout=0.0,
        )
    )


def structured_batch() -> TripleBatch:
    """Notes are bursts in time on some bins, timbres are envelopes over the bins: the target is their sum."""
    random = torch.Generator().manual_seed(5)
    envelopes = torch.randn(SIZE, BINS, generator=random)
    others = torch.randn(SIZE, BINS, generator=random)

    def notes() -> Tensor:
        bursts = torch.rand(SIZE, BINS, FRAMES // 8, generator=random) < 0.3
        return bursts.repeat_interleave(8, dim=-1).float()

    first, second = notes(), notes()
    roll = torch.zeros(SIZE, 128, FRAMES, dtype=torch.bool)
    roll[:, 60 : 60 + BINS] = first.bool()
    return TripleBatch(
        content=2 * first + others[..., None],
        style=2 * second + envelopes[..., None],
        target=2 * first + envelopes[..., None],
        content_roll=roll,
        timbre=torch.arange(SIZE),
    )


def overfit(
    model: nn.Module, objective: VQVAEObjective | GlowObjective, batch: TripleBatch, *, steps: int
) -> tuple[dict[str, float], dict[str, float]]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows: list[Mapping[str, Tensor]] = []
    model.train()
    for step in range(steps):
        terms = objective(model, batch, step=step)  # type: ignore[arg-type]
        optimizer.zero_grad()
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rows.append({name: value.detach() for name, value in terms.items()})

    def mean(part: list[Mapping[str, Tensor]]) -> dict[str, float]:
        names = {name for row in part for name in row}
        return {n: float(torch.stack([row[n] for row in part if n in row]).mean()) for n in names}

    return mean(rows[:5]), mean(rows[-5:])


@pytest.mark.parametrize("reconstruction", ["l1", "mse"])
def test_vqvae_terms_go_down_together(reconstruction: str) -> None:
    first, last = overfit(
        vqvae(), VQVAEObjective(reconstruction=reconstruction, weights=WEIGHTS), structured_batch(), steps=120
    )
    assert set(first) == {
        "loss", "reconstruction", "vq/commitment_loss", "vq/perplexity", "roll/bce", "content/invariance",
        "style/contrastive",
    }  # fmt: skip
    assert last["reconstruction"] < 0.6 * first["reconstruction"]
    assert last["roll/bce"] < 0.7 * first["roll/bce"]
    assert last["style/contrastive"] < 0.5 * first["style/contrastive"]


@pytest.mark.slow
def test_glow_terms_go_down_together() -> None:
    model, batch = glow(), structured_batch()
    objective = GlowObjective(noise=0.1, l1=0.5, l1_every=5, weights=WEIGHTS)
    objective.initialize(model, batch)
    first, last = overfit(model, objective, batch, steps=120)
    assert last["glow/bits_per_dim"] < first["glow/bits_per_dim"] - 0.5
    assert last["l1"] < 0.8 * first["l1"]
    assert last["roll/bce"] < 0.7 * first["roll/bce"]
    assert last["style/contrastive"] < 0.5 * first["style/contrastive"]
    model.eval()
    with torch.no_grad():
        figures = objective.validate(model, batch)
    assert figures["glow/style_gain"] > 0.1


def test_invariance_is_a_share_that_shrinking_does_not_lower() -> None:
    random = torch.Generator().manual_seed(1)
    notes = torch.randn(16, 8, 1, generator=random) + torch.randn(16, 8, 40, generator=random)
    timbres = torch.randn(2, 16, 8, 1, generator=random)
    told = float(invariance_loss(notes + timbres[0], notes + timbres[1]))
    assert told > 0.2
    assert float(invariance_loss(notes, notes)) == 0
    assert abs(float(invariance_loss(0.3 * (notes + timbres[0]), 0.3 * (notes + timbres[1]))) - told) < 0.05
    assert 0.7 < float(invariance_loss(*torch.randn(2, 64, 8, 9, generator=random))) < 1.3


def test_initialize_centres_the_actnorms() -> None:
    model, batch = glow(), structured_batch()
    objective = GlowObjective(noise=0.05, l1=0.0, l1_every=1, weights=WEIGHTS)
    objective.initialize(model, batch)
    with torch.no_grad():
        output = model(batch.target, batch.content, batch.style)
    for z in output.likelihood.z:
        assert float(z.mean().abs()) < 0.2 and 0.5 < float(z.std()) < 2


def test_l1_is_computed_at_every_kth_step_only() -> None:
    model, batch = glow(), structured_batch()
    objective = GlowObjective(noise=0.1, l1=0.5, l1_every=3, weights=WEIGHTS)
    assert [("l1" in objective(model, batch, step=step)) for step in range(5)] == [True, False, False, True, False]
    never = GlowObjective(noise=0.1, l1=0.0, l1_every=1, weights=WEIGHTS)
    assert "l1" not in never(model, batch, step=0)


def test_noise_bounds_the_likelihood_and_is_drawn_anew() -> None:
    model, batch = glow(), structured_batch()
    objective = GlowObjective(noise=0.1, l1=0.0, l1_every=1, weights=WEIGHTS)
    first = objective(model.eval(), batch, step=0)["glow/bits_per_dim"]
    second = objective(model.eval(), batch, step=0)["glow/bits_per_dim"]
    assert first != second


@pytest.mark.parametrize(
    ("term", "part"),
    [
        ("reconstruction", "decoder"),
        ("reconstruction", "style_encoder"),
        ("vq/commitment_loss", "content_path.encoder"),
        ("roll/bce", "content_path.encoder"),
        ("roll/bce", "content_path.pianoroll_head"),
        ("style/contrastive", "style_encoder"),
    ],
)
def test_each_vqvae_term_reaches_its_part(term: str, part: str) -> None:
    model = vqvae().train()
    objective = VQVAEObjective(reconstruction="l1", weights=WEIGHTS)
    objective(model, structured_batch(), step=0)  # k-means places the codes
    objective(model, structured_batch(), step=0)[term].backward()
    gradients = [p.grad for p in model.get_submodule(part).parameters() if p.grad is not None]
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


@pytest.mark.parametrize("term", ["l1", "glow/bits_per_dim"])
@pytest.mark.parametrize("part", ["flow", "decoder", "condition_network", "style_encoder", "content_path.encoder"])
def test_each_glow_term_reaches_its_part(term: str, part: str) -> None:
    model = glow().train()
    with torch.no_grad():  # zero-initialised last layers would hide a missing path
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    objective = GlowObjective(noise=0.1, l1=1.0, l1_every=1, weights=WEIGHTS)
    objective(model, structured_batch(), step=0)[term].backward()
    gradients = [p.grad for p in model.get_submodule(part).parameters() if p.grad is not None]
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


def test_terms_of_weight_zero_are_left_out() -> None:
    weights = AuxiliaryWeights(
        commitment=0.5, roll=0.0, roll_pos_weight=1.0, invariance=0.0, contrastive=0.0, contrastive_temperature=0.1
    )
    terms = VQVAEObjective(reconstruction="mse", weights=weights)(vqvae(), structured_batch(), step=0)
    assert set(terms) == {"loss", "reconstruction", "vq/commitment_loss", "vq/perplexity"}
    values = {name: float(value.detach()) for name, value in terms.items()}
    assert values["loss"] == pytest.approx(values["reconstruction"] + 0.5 * values["vq/commitment_loss"])


def test_both_models_validate_the_same_l1() -> None:
    batch = structured_batch()
    for model, objective in (
        (vqvae(), VQVAEObjective(reconstruction="mse", weights=WEIGHTS)),
        (glow(), GlowObjective(noise=0.1, l1=0.0, l1_every=1, weights=WEIGHTS)),
    ):
        model.eval()
        with torch.no_grad():
            figures = objective.validate(model, batch)  # type: ignore[arg-type]
            expected = (model.transfer(batch.content, batch.style, temperature=0.0) - batch.target).abs().mean()
        assert float(figures["l1"]) == pytest.approx(float(expected), rel=1e-4)
        assert objective.criterion in figures


def test_contrastive_prefers_the_right_pairs() -> None:
    random = torch.Generator().manual_seed(1)
    first = torch.randn(6, 2, 8, generator=random)
    second = first + 0.1 * torch.randn(6, 2, 8, generator=random)
    timbre = torch.arange(6)
    right = contrastive_loss(first, second, timbre, temperature=0.1)
    wrong = contrastive_loss(first, second.roll(1, dims=0), timbre, temperature=0.1)
    alike = contrastive_loss(torch.ones(6, 2, 8), torch.ones(6, 2, 8), timbre, temperature=0.1)
    assert float(right) < 0.1 < float(alike) < float(wrong)
    assert float(alike) == pytest.approx(math.log(6))


def test_contrastive_leaves_other_clips_of_the_same_timbre_out() -> None:
    tokens = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(2))
    tokens[1] = tokens[0]
    separate = contrastive_loss(tokens, tokens, torch.tensor([0, 1, 2, 3]), temperature=0.1)
    twins = contrastive_loss(tokens, tokens, torch.tensor([0, 0, 2, 3]), temperature=0.1)
    assert float(twins) < 0.1 < float(separate)
    assert float(contrastive_loss(tokens, tokens, torch.zeros(4, dtype=torch.long), temperature=0.1)) == 0.0


def test_roll_loss_weighs_sounding_pitches() -> None:
    roll = torch.zeros(1, 128, 4, dtype=torch.bool)
    roll[0, 60] = True
    silent = torch.full((1, 128, 4), -5.0)
    assert roll_loss(silent, roll, pos_weight=10.0) > 5 * roll_loss(silent, roll, pos_weight=1.0)
    perfect = torch.where(roll, 20.0, -20.0)
    assert float(roll_loss(perfect, roll, pos_weight=10.0)) < 1e-6


def test_triplets_are_put_in_order() -> None:
    torch.manual_seed(3)
    network = TripletNetwork(TripletConfig(n_coefficients=12, channels=16, kernels=(4, 4)))
    timbres = torch.randn(8, 12, 1)

    def clips(which: Tensor) -> Tensor:
        return timbres[which] + torch.randn(len(which), 12, 64)

    objective = TripletObjective(margin=0.1)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        which = torch.randint(8, (32,))
        batch = TripletBatch(clips(which), clips(which), clips((which + torch.randint(1, 8, (32,))) % 8))
        terms = objective(network, batch, step=step)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert float(terms["triplet/accuracy"]) > 0.9


@pytest.mark.parametrize("change", [{"roll": -1.0}, {"roll_pos_weight": 0.0}, {"contrastive_temperature": 0.0}])
def test_senseless_weights_are_refused(change: dict[str, float]) -> None:
    values = {
        "commitment": 1.0,
        "roll": 1.0,
        "roll_pos_weight": 1.0,
        "invariance": 1.0,
        "contrastive": 1.0,
        "contrastive_temperature": 0.1,
    }
    with pytest.raises(TimbreflowError, match=next(iter(change))):
        AuxiliaryWeights(**{**values, **change})
