from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.inference.tiny import FEATURES, build
from timbreflow.audio.features import Normalizer
from timbreflow.commands import models as commands
from timbreflow.errors import TimbreflowError
from timbreflow.models.average import average
from timbreflow.models.bundle import ModelBundle, load_bundle, save_bundle, weights_sha256


def _glow(move: float = 0.0) -> ModelBundle:
    model = build("glow")
    with torch.no_grad():
        for value in model.parameters():
            value += move
    return ModelBundle("glow", model, FEATURES, None, {"steps": 3, "best_loss": 0.5})


def _statistics(mean: float) -> Normalizer:
    return Normalizer.from_statistics({"mean": [mean] * 4, "std": [2.0] * 4})


@pytest.mark.parametrize(("mean", "refused"), [(0.05, False), (0.5, True)])
def test_feature_statistics_may_differ_a_little(mean: float, refused: bool) -> None:
    first, second = (replace(_glow(), normalizer=_statistics(value)) for value in (0.0, mean))
    with pytest.raises(TimbreflowError, match="feature statistics") if refused else nullcontext():
        assert average(first, second).normalizer is first.normalizer


def test_only_the_named_parts_are_averaged() -> None:
    before = {name: value.clone() for name, value in _glow().model.state_dict().items()}
    parameters = {name for name, _ in _glow().model.named_parameters()}
    mean = average(_glow(), _glow(move=1.0), parts=["flow"])
    moved = {name for name, value in mean.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in parameters if name.startswith("flow.")}
    assert all(torch.allclose(mean.model.state_dict()[name], before[name] + 0.5, atol=1e-5) for name in moved)
    assert mean.training == {"steps": 3, "averaged": [{"parts": ["flow"], "share": 0.5}]}


def test_all_weights_without_parts_and_no_integers() -> None:
    before = {name: value.clone() for name, value in _glow().model.state_dict().items()}
    mean = average(_glow(), _glow(move=1.0))
    for name, value in mean.model.named_parameters():
        assert torch.allclose(value, before[name] + 0.5, atol=1e-5), name
    for name, value in mean.model.state_dict().items():
        assert value.dtype == before[name].dtype


def test_a_share_of_one_takes_the_parts_over_and_others_are_refused() -> None:
    other = _glow(move=1.0)
    taken = average(_glow(), other, parts=["flow"], share=1.0)
    for name, value in taken.model.named_parameters():
        assert torch.equal(value, other.model.state_dict()[name]) == name.startswith("flow."), name
    with pytest.raises(TimbreflowError, match="share of the other model is 1.5"):
        average(_glow(), other, share=1.5)


@pytest.mark.parametrize(
    ("other", "parts", "words"),
    [
        (replace(_glow(), kind="vqvae", model=build("vqvae")), [], "same model"),
        (replace(_glow(), features=replace(FEATURES, hop_length=FEATURES.hop_length // 2)), [], "feature statistics"),
        (replace(_glow(), normalizer=_statistics(0.0)), [], "feature statistics"),
        (_glow(), ["flwo"], "no part 'flwo'; choose from .*flow"),
    ],
)
def test_what_has_no_mean_is_refused(other: ModelBundle, parts: list[str], words: str) -> None:
    with pytest.raises(TimbreflowError, match=words):
        average(_glow(), other, parts=parts)


def test_the_command_stores_a_model_and_overwrites_none(tmp_path: Path) -> None:
    for name, move in (("a", 0.0), ("b", 1.0)):
        save_bundle(tmp_path / name, _glow(move))
    command: Callable[..., None] = commands.average
    command(tmp_path / "a", tmp_path / "b", tmp_path / "mean", parts=["flow"])
    averaged = {"parts": ["flow"], "share": 0.5, "other": weights_sha256(tmp_path / "b")}
    assert load_bundle(tmp_path / "mean").training["averaged"] == [averaged]
    with pytest.raises(TimbreflowError, match="exists; name another folder"):
        command(tmp_path / "a", tmp_path / "b", tmp_path / "mean")
