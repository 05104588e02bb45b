"""Several takes, and their order."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.inference.tiny import FEATURES, build, melody
from timbreflow.audio.features import Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.inference.synthesis import DecodeRequest
from timbreflow.inference.takes import TakeFigures, TakeJudge, ranked
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.bundle import ModelBundle
from timbreflow.models.glow.model import Glow

RATE = 16000
CONTENT, STYLE = melody(9.3, RATE, level=0.05), melody(2, RATE, seed=1)


@pytest.fixture(scope="module")
def glow(bundles: dict[str, Path]) -> TimbreTransfer:
    return TimbreTransfer.load(bundles["glow"])


def test_the_best_comes_first() -> None:
    far, near, nearest = (TakeFigures(off, style, 3.0, 0.5, 0.5) for off, style in ((0.9, 0.4), (0.7, 0.3), (0.6, 0.3)))
    assert ranked([far, near, nearest]) == [2, 1, 0]
    no_decoder = [TakeFigures(math.nan, off, 3.0, 0.5, 0.5) for off in (0.4, 0.3)]
    assert ranked(no_decoder) == [1, 0]
    assert ranked([far]) == [0]


def test_only_distances_from_prediction_and_style_count() -> None:
    likely, near = TakeFigures(0.9, 0.3, 2.0, 1.0, 1.0), TakeFigures(0.7, 0.3, 4.0, 0.0, 0.0)
    assert ranked([likely, near]) == [1, 0]


@pytest.mark.parametrize(
    ("closeness", "notes", "words"),
    [
        (0.7, 0.9, "close to the style, notes clear"),
        (0.3, 0.6, "on the way to the style, most notes kept"),
        (-0.2, 0.1, "far from the style, notes blurred"),
        (0.7, math.nan, "close to the style"),
    ],
)
def test_words(closeness: float, notes: float, words: str) -> None:
    assert TakeFigures(0.5, 0.3, 3.0, closeness, notes).words == words


def test_takes_are_the_transfers_of_their_seeds(glow: TimbreTransfer) -> None:
    heard: list[float] = []
    takes = glow.takes(CONTENT, STYLE, 3, seed=5, progress=heard.append)
    assert sorted(take.seed for take in takes) == [5, 6, 7]
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1.0, abs=0.01)
    for take in takes:
        assert take.audio is not None
        np.testing.assert_array_equal(take.audio, glow.transfer(CONTENT, STYLE, seed=take.seed))
        figures = take.figures
        assert np.isfinite([figures.off_style, figures.bits_per_dim, figures.closeness]).all()
    assert [take.seed for take in takes] == [5 + number for number in ranked(sorted_figures(takes))]


def sorted_figures(takes: list) -> list[TakeFigures]:  # type: ignore[type-arg]
    return [take.figures for take in sorted(takes, key=lambda take: int(take.seed))]


def test_a_take_that_is_the_style_is_close(glow: TimbreTransfer) -> None:
    judge = glow._judge()
    request = glow.player.request(glow.styles.given(STYLE, RATE), glow._options({}))
    content = glow.player._features(CONTENT[None, : 8 * RATE])
    judge.add(content, request.style, request)
    assert judge.figures.closeness == pytest.approx(1.0, abs=1e-4)
    assert judge.figures.off_style == pytest.approx(0.0, abs=1e-6)
    stays = glow._judge()
    stays.add(content, content, request)
    assert stays.figures.closeness == pytest.approx(0.0, abs=1e-6)
    assert stays.figures.off_style > 0.1


def test_the_prediction_itself_is_at_no_distance_from_it() -> None:
    torch.manual_seed(0)
    untrained = build("glow")
    assert isinstance(untrained, Glow)
    model = Glow(dataclasses.replace(untrained.config, decoder_width=16, decoder_blocks=1)).eval()
    normalizer = Normalizer(torch.full((40,), -1.0), torch.full((40,), 1.5))
    bundle = ModelBundle("glow", model, FEATURES, normalizer, {"steps": 0})
    content, style = torch.randn(2, 40, 64), torch.randn(2, 40, 48)
    with torch.inference_mode():
        conditions = model.condition(model.content_path(content).code, model.style_encoder(style), frames=64)
    assert conditions.prediction is not None
    for distance in (0.0, 0.5):
        judge = TakeJudge(bundle, noise=0.1)
        judge.add(content, conditions.prediction + distance, DecodeRequest(style, 0.25, 0, None))
        assert judge.figures.off_prediction == pytest.approx(1.5 * distance, abs=1e-5)


def test_takes_on_disk_are_numbered_from_the_best(glow: TimbreTransfer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "content.wav", CONTENT, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "style.wav", STYLE, RATE, subtype="FLOAT")
    takes = glow.takes_files(tmp_path / "content.wav", tmp_path / "style.wav", tmp_path / "out.flac", 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["content.wav", "out-1.flac", "out-2.flac", "style.wav"]
    for number, take in enumerate(takes):
        made, _ = soundfile.read(tmp_path / f"out-{number + 1}.flac")
        np.testing.assert_allclose(made, glow.transfer(CONTENT, STYLE, seed=take.seed), atol=2e-4)


def test_cancelled_takes_leave_nothing(glow: TimbreTransfer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "content.wav", CONTENT, RATE)
    soundfile.write(tmp_path / "style.wav", STYLE, RATE)
    heard: list[float] = []
    with pytest.raises(TimbreflowError, match="cancelled"):
        glow.takes_files(
            tmp_path / "content.wav",
            tmp_path / "style.wav",
            tmp_path / "out.wav",
            2,
            progress=heard.append,
            cancel=lambda: len(heard) > 0 and heard[-1] > 0.6,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["content.wav", "style.wav"]


def test_takes_that_would_be_the_same_are_refused(glow: TimbreTransfer) -> None:
    with pytest.raises(TimbreflowError, match="0 takes are asked for; give 1 to 32"):
        glow.takes(CONTENT, STYLE, 0)
    with pytest.raises(TimbreflowError, match="All takes would be the same: a vqvae draws no samples"):
        TimbreTransfer.released("vqvae").takes(CONTENT, STYLE, 2)


def test_the_likelihood_of_a_take_is_the_flows(glow: TimbreTransfer) -> None:
    judge, options = glow._judge(), glow._options({})
    request = glow.player.request(glow.styles.given(STYLE, RATE, options.blend), options)
    content, made = (glow.player._features(melody(4, RATE, seed=seed)[None]) for seed in (0, 3))
    judge.add(content, made, request)
    model = glow.bundle.model
    draw = torch.randn(made.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(made + glow._noise * draw, content, request.style).likelihood.bits_per_dim  # type: ignore[operator]
    assert judge.figures.bits_per_dim == pytest.approx(float(expected), rel=1e-4)
