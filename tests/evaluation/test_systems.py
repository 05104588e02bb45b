"""Models as rows of the table: what is done to their features before they become sound."""

import dataclasses
import math
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from tests.inference import tiny
from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.config import load_params
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.system import SystemContext
from timbreflow.evaluation.systems import DecoderAlone, ModelSystem, Oracle, TrueRoll
from timbreflow.inference.synthesis import DEFAULT_TEMPERATURE, DEFAULT_VARIANCE_SCALE
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.bundle import ModelBundle, save_bundle
from timbreflow.models.glow.model import Glow
from timbreflow.models.vqvae import VQVAE
from timbreflow.notes.tables import Notes

CONTENT = torch.from_numpy(tiny.melody(2.0, 16000, seed=1))[None]
STYLE = torch.from_numpy(tiny.melody(2.0, 16000, seed=2))[None]
STFT = FeatureConfig("log_stft", 16000, 78, 78, 39, 1, 0.0, 8000.0, 0.01)


class Silent:
    """An inversion that keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, features: Tensor, *, seed: int = 0) -> Tensor:
        self.given.append(features)
        return torch.zeros(len(features), features.shape[-1] * tiny.FEATURES.hop_length)


class Loud:
    """An inversion to a sound as loud as the features are high."""

    def __call__(self, features: Tensor, *, seed: int = 0) -> Tensor:
        return features.mean(1).repeat_interleave(tiny.FEATURES.hop_length, dim=1)


class Shown:
    """An inversion that shows what it was given."""

    def __call__(self, features: Tensor, *, seed: int = 0) -> Tensor:
        return features.flatten(1)


def raw(folder: Path, scale: float, *, content: Tensor = CONTENT, style: Tensor = STYLE) -> Tensor:
    """Raw features [1, M, T] that the row gives to the inversion."""
    invert = Silent()
    context = SystemContext(
        tiny.FEATURES, lambda name: folder, torch.device("cpu"), 0.0, scale, lambda features: invert
    )
    ModelSystem(context, "model").transfer(content, style, content, seed=0)
    return invert.given[0]


@pytest.mark.parametrize("kind", ["vqvae", "glow"])
def test_the_variance_scale_moves_log_mels_away_from_the_mean(tmp_path: Path, kind: str) -> None:
    folder = tiny.save_bundles(tmp_path)[kind]
    plain, more = raw(folder, 1.0), raw(folder, 1.5)
    torch.testing.assert_close(more + 1.0, 1.5 * (plain + 1.0))  # the tiny models' mean is -1


def test_spectra_of_other_kinds_stay(tmp_path: Path) -> None:
    bundle = ModelBundle("vqvae", tiny.build("vqvae"), STFT, Normalizer(torch.zeros(40), torch.ones(40)), {"steps": 0})
    save_bundle(tmp_path / "stft", bundle)
    torch.testing.assert_close(raw(tmp_path / "stft", 1.5), raw(tmp_path / "stft", 1.0))


@pytest.mark.parametrize("kind", ["vqvae", "glow"])
def test_what_is_measured_is_what_ships(tmp_path: Path, kind: str) -> None:
    """A clip as a row of the table and as a transfer: the same features become sound, limited to full scale."""
    evaluate = load_params(Path("params.yaml")).evaluate
    assert (evaluate.temperature, evaluate.variance_scale) == (DEFAULT_TEMPERATURE, DEFAULT_VARIANCE_SCALE)
    folder = tiny.save_bundles(tmp_path)[kind]
    transfer = TimbreTransfer.load(folder)
    transfer.synthesizer.invert = invert = Silent()
    content, style = (torch.from_numpy(tiny.melody(8.0, 16000, seed=seed))[None] for seed in (1, 2))
    # The level of the training clips, to which transfers bring their recordings, and which test clips have.
    content, style = (sound * 10 ** (-23 / 20) / sound.square().mean().sqrt() for sound in (content, style))
    transfer.transfer(content[0].numpy(), style[0].numpy(), temperature=0.0)
    row = raw(folder, DEFAULT_VARIANCE_SCALE, content=content, style=style)
    torch.testing.assert_close(invert.given[0], row, atol=1e-3, rtol=0)


@pytest.mark.parametrize("row", ["model", "oracle"])
def test_no_row_is_louder_than_full_scale(tmp_path: Path, row: str) -> None:
    folder = tiny.save_bundles(tmp_path)["vqvae"]
    invert = Silent()
    context = SystemContext(tiny.FEATURES, lambda name: folder, torch.device("cpu"), 0.0, 1e6, lambda _: invert)
    system = ModelSystem(context, "model") if row == "model" else Oracle(context)
    system.transfer(CONTENT, STYLE, 1e6 * CONTENT, seed=0)
    assert float(invert.given[0].max()) == pytest.approx(math.log(tiny.FEATURES.win_length / 2))


def context_of(folder: Path) -> SystemContext:
    return SystemContext(tiny.FEATURES, lambda name: folder, torch.device("cpu"), 1.0, 1.0, lambda features: Shown())


def test_the_decoder_alone_is_the_sample_less_the_flows_part(tmp_path: Path) -> None:
    config = dataclasses.replace(cast(Glow, tiny.build("glow")).config, decoder_width=16, decoder_blocks=1)
    glow = Glow(config).eval()
    content, style = torch.randn(1, 40, 30), torch.randn(1, 40, 20)
    with torch.no_grad():
        for parameter in glow.parameters():  # an untrained flow has a prior of zeros
            parameter.add_(0.1 * torch.randn_like(parameter))
        alone = DecoderAlone(glow).transfer(content, style)
        conditions = glow.condition(glow.content_path(content).code, glow.style_encoder(style), frames=30)
        residual = glow.flow.inverse(conditions.means, conditions.contexts)[..., :30]
        torch.testing.assert_close(alone + residual, glow.sample(conditions, temperature=0.0))
    assert residual.abs().max() > 1e-3
    with pytest.raises(TimbreflowError, match="no decoder without its flow"):
        ModelSystem(context_of(tiny.save_bundles(tmp_path)["glow"]), "glow", DecoderAlone)


def test_true_notes_take_the_place_of_those_that_are_found(tmp_path: Path) -> None:
    config = cast(VQVAE, tiny.build("vqvae")).config
    content = dataclasses.replace(config.content, pianoroll_head_width=8, pianoroll_channels=4)
    torch.manual_seed(3)
    model = VQVAE(dataclasses.replace(config, content=content))
    bundle = ModelBundle("vqvae", model, tiny.FEATURES, Normalizer(torch.zeros(40), torch.ones(40)), {"steps": 0})
    save_bundle(tmp_path / "roll", bundle)
    system = TrueRoll(context_of(tmp_path / "roll"), "vqvae")
    low, high = (Notes.of([0.2], [1.0], [pitch], [90]) for pitch in (40, 80))
    made = [system.transfer(CONTENT, STYLE, CONTENT, seed=0, notes=[notes]) for notes in (low, high, low)]
    assert torch.equal(made[0], made[2])
    assert not torch.allclose(made[0], made[1])
    hidden = system.transfer(CONTENT, STYLE, torch.zeros_like(CONTENT), seed=0, notes=[low])
    assert torch.equal(hidden, made[0]), "the target's sound was looked at"
    seconds = torch.arange(2 * tiny.FEATURES.sample_rate) / tiny.FEATURES.sample_rate
    tuned = torch.stack([torch.sin(6.2832 * 440 * 2 ** (cents / 1200) * seconds) for cents in (0.0, 40.0, -45.0)])
    style = STYLE.expand(3, -1)
    context = SystemContext(
        tiny.FEATURES, lambda name: tmp_path / "roll", torch.device("cpu"), 0.0, 1.0, lambda _: Loud()
    )
    system = TrueRoll(context, "vqvae")
    together = system.transfer(tuned, style, tuned, seed=0, notes=[low, high, low])
    alone = system.transfer(tuned[1:2], style[:1], tuned[1:2], seed=0, notes=[high])
    torch.testing.assert_close(together[1:2], alone)
    with pytest.raises(TimbreflowError, match="reads no piano roll"):
        TrueRoll(context_of(tiny.save_bundles(tmp_path)["vqvae"]), "vqvae")


def test_a_variance_scale_below_nothing_is_refused() -> None:
    evaluate = load_params(Path("params.yaml")).evaluate
    with pytest.raises(TimbreflowError, match=r"evaluate.variance_scale is -0.1; set it to 0 or more"):
        dataclasses.replace(evaluate, variance_scale=-0.1)
