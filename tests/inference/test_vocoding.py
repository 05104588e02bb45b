"""The vocoder stands in for Griffin-Lim only where its record says that it won, and blocks leave no seam."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import small
from timbreflow.audio.features import FeatureExtractor, Normalizer
from timbreflow.audio.inversion import GriffinLimInverter
from timbreflow.errors import TimbreflowError
from timbreflow.inference import vocoding
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.inference.vocoding import VERDICT, VocoderInverter, is_trusted, open_inverter
from timbreflow.models.bundle import ModelBundle, save_bundle
from timbreflow.models.vocoder import Vocoder


@pytest.fixture
def bundle() -> ModelBundle:
    torch.manual_seed(0)
    model = Vocoder(small.VOCODER)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    normalizer = Normalizer(mean=torch.full((24,), -2.0), std=torch.full((24,), 2.0))
    return ModelBundle("vocoder", model, small.MELS, normalizer, {VERDICT: 1})


def test_called_as_griffin_lim_is(bundle: ModelBundle) -> None:
    features = torch.randn(2, 24, 5) - 2
    for invert in (VocoderInverter(bundle), GriffinLimInverter(small.MELS, n_iter=2)):
        sound = invert(features, seed=3)
        assert sound.shape == (2, 2500)
        assert sound.dtype == torch.float32
        assert not sound.requires_grad
        assert invert(features[:, :, :0]).shape == (2, 0)
        assert invert(features[:, :, :1]).shape == (2, 500)
        assert torch.equal(invert(features, seed=3), sound)


def test_a_vocoder_is_no_transfer_model(bundle: ModelBundle) -> None:
    with pytest.raises(TimbreflowError, match="kind vocoder does not transfer timbre; name a vqvae or a glow"):
        TimbreTransfer(bundle)


def test_griffin_lim_brings_the_vocoder_back_to_the_bands(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    time = torch.arange(16_000) / 16_000
    extract = FeatureExtractor(small.MELS)
    features = extract((0.1 * torch.sin(6.283 * 440 * time))[None])
    error = {}
    for count in (1, 8):
        monkeypatch.setattr(vocoding, "CORRECTIONS", count)
        error[count] = float((extract(VocoderInverter(bundle)(features)) - features).abs().mean())
    assert bundle.normalizer is not None
    alone = float((extract(bundle.model(bundle.normalizer.normalize(features)).detach()) - features).abs().mean())
    assert error[8] < error[1] < alone


def test_blocks_leave_no_seam(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(1, 24, 70) - 2
    whole = VocoderInverter(bundle)(features)
    monkeypatch.setattr(vocoding, "BLOCK_FRAMES", 16)
    torch.testing.assert_close(VocoderInverter(bundle)(features), whole, rtol=1e-3, atol=1e-5)


def test_unusable_features_are_refused(bundle: ModelBundle) -> None:
    invert = VocoderInverter(bundle)
    with pytest.raises(TimbreflowError, match="cannot be inverted"):
        invert(torch.zeros(1, 23, 5))
    with pytest.raises(TimbreflowError, match="NaN"):
        invert(torch.full((1, 24, 5), float("nan")))


def test_trust_asks_for_the_verdict_and_the_same_features(bundle: ModelBundle) -> None:
    assert is_trusted(bundle, small.MELS)
    assert not is_trusted(bundle, replace(small.MELS, floor=0.02))
    for record in ({VERDICT: 0}, {}, {VERDICT: "1"}):
        assert not is_trusted(replace(bundle, training=record), small.MELS)


def test_only_a_trusted_vocoder_is_opened(bundle: ModelBundle, tmp_path: Path) -> None:
    save_bundle(tmp_path / "good", bundle)
    save_bundle(tmp_path / "bad", replace(bundle, training={VERDICT: 0}))
    assert isinstance(open_inverter(small.MELS, tmp_path / "good"), VocoderInverter)
    for folder in (tmp_path / "bad", tmp_path / "nowhere", None):
        inverter = open_inverter(small.MELS, folder, n_iter=3, momentum=0.5)
        assert isinstance(inverter, GriffinLimInverter)
        assert (inverter.n_iter, inverter.momentum) == (3, 0.5)
    assert isinstance(open_inverter(replace(small.MELS, fmin=40.0), tmp_path / "good"), GriffinLimInverter)
    (tmp_path / "good/weights.safetensors").unlink()
    with pytest.raises(TimbreflowError, match="missing"):
        open_inverter(small.MELS, tmp_path / "good")


def test_other_models_are_refused(bundle: ModelBundle) -> None:
    with pytest.raises(TimbreflowError, match="name a vocoder"):
        VocoderInverter(replace(bundle, kind="vqvae"))
