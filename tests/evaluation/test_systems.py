"""Models as rows of the table: what is done to their features before they become sound."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.inference import tiny
from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.config import load_params
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.systems import ModelSystem, SystemContext
from timbreflow.inference.decoding import DEFAULT_CONTRAST, DEFAULT_TEMPERATURE
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.bundle import ModelBundle, save_bundle

CONTENT = torch.from_numpy(tiny.melody(2.0, 16000, seed=1))[None]
STYLE = torch.from_numpy(tiny.melody(2.0, 16000, seed=2))[None]
STFT = FeatureConfig("log_stft", 16000, 78, 78, 39, 1, 0.0, 8000.0, 0.01)


class Shown:
    """An inversion that shows what it was given."""

    def __call__(self, features: Tensor, *, seed: int = 0) -> Tensor:
        return features.flatten(1)


def raw(folder: Path, contrast: float) -> Tensor:
    """Raw features [1, M * T] that the row gives to the inversion."""
    context = SystemContext(
        tiny.FEATURES, lambda name: folder, torch.device("cpu"), 0.0, contrast, lambda features: Shown()
    )
    return ModelSystem(context, "model").transfer(CONTENT, STYLE, CONTENT, seed=0)


@pytest.mark.parametrize("kind", ["vqvae", "glow"])
def test_contrast_moves_log_mels_away_from_the_mean(tmp_path: Path, kind: str) -> None:
    folder = tiny.save_bundles(tmp_path)[kind]
    plain, more = raw(folder, 1.0), raw(folder, 1.5)
    torch.testing.assert_close(more + 1.0, 1.5 * (plain + 1.0))  # the tiny models' mean is -1


def test_spectra_of_other_kinds_stay(tmp_path: Path) -> None:
    bundle = ModelBundle("vqvae", tiny.build("vqvae"), STFT, Normalizer(torch.zeros(40), torch.ones(40)), {"steps": 0})
    save_bundle(tmp_path / "stft", bundle)
    torch.testing.assert_close(raw(tmp_path / "stft", 1.5), raw(tmp_path / "stft", 1.0))


def test_transfers_have_the_contrast_that_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = load_params(Path("params.yaml")).evaluate
    assert (evaluate.temperature, evaluate.contrast) == (DEFAULT_TEMPERATURE, DEFAULT_CONTRAST)
    folder = tiny.save_bundles(tmp_path)["vqvae"]
    transfer = TimbreTransfer.load(folder)
    given: list[Tensor] = []

    def invert(features: Tensor, *, seed: int = 0) -> Tensor:
        given.append(features)
        return torch.zeros(len(features), features.shape[-1] * tiny.FEATURES.hop_length)

    transfer.invert = invert
    session = (CONTENT[0].numpy(), STYLE[0].numpy())
    with monkeypatch.context() as patch:
        patch.setattr("timbreflow.inference.transfer.DEFAULT_CONTRAST", 1.0)
        transfer.transfer(*session)
    transfer.transfer(*session)
    plain, more = given
    torch.testing.assert_close(more + 1.0, DEFAULT_CONTRAST * (plain + 1.0))


def test_a_contrast_below_nothing_is_refused() -> None:
    evaluate = load_params(Path("params.yaml")).evaluate
    with pytest.raises(TimbreflowError, match=r"evaluate.contrast is -0.1; set it to 0 or more"):
        dataclasses.replace(evaluate, contrast=-0.1)
