from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from timbreflow.audio.features import FeatureConfig
from timbreflow.audio.inversion import GriffinLimInverter
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.ulyanov_lebedev import (
    UlyanovLebedev,
    gram_distance,
    match_statistics,
    strongest_spectra,
)
from timbreflow.evaluation.system import SystemContext
from timbreflow.metrics.timbre import mfcc_distance

RATE = 16000
FEATURES = FeatureConfig("log_mel", RATE, 2048, 2000, 500, 128, 20.0, 8000.0, 0.01)
CONTEXT = SystemContext(FEATURES, Path, torch.device("cpu"), 0.0, 1.0, partial(GriffinLimInverter, n_iter=8))


@pytest.fixture(scope="module")
def system() -> UlyanovLebedev:
    return UlyanovLebedev(CONTEXT, n_filters=256, n_spectra=24, evaluations=12)


def tones(pitches: list[int], partials: list[float]) -> torch.Tensor:
    time = np.arange(RATE // 2) / RATE
    frequencies = [440 * 2 ** ((pitch - 69) / 12) for pitch in pitches]
    waves = [sum(a * np.sin(2 * np.pi * f * (k + 1) * time) for k, a in enumerate(partials)) for f in frequencies]
    return torch.from_numpy(np.concatenate([0.1 * np.exp(-4 * time) * wave for wave in waves]).astype(np.float32))[None]


CONTENT = tones([60, 67, 64, 72], [1.0, 0.05])
STYLE = tones([64, 60, 72, 67], [1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
TARGET = tones([60, 67, 64, 72], [1.0, 0.9, 0.8, 0.7, 0.6, 0.5])


def test_the_gram_distance_is_that_of_the_gram_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(7, 5, generator=generator), torch.rand(7, 9, generator=generator)
    grams = [features @ features.T / (2 * features.shape[1]) for features in (first, second)]
    assert float(gram_distance(first, second)) == pytest.approx(float((grams[0] - grams[1]).square().sum()), rel=1e-5)


def test_the_search_lowers_the_gram_distance_and_stays_with_the_content() -> None:
    generator = torch.Generator().manual_seed(0)
    content, style = torch.rand(6, 20, generator=generator), 3 * torch.rand(6, 20, generator=generator)
    filters = torch.randn(50, 6, generator=generator)

    def features(sought: torch.Tensor) -> torch.Tensor:
        return torch.relu(filters @ sought)

    def found(style_weight: float) -> torch.Tensor:
        return match_statistics(content, style, features=features, style_weight=style_weight, evaluations=20)

    def far(sought: torch.Tensor) -> float:
        return float(gram_distance(features(sought), features(style)))

    light, heavy = found(0.01), found(10.0)
    assert far(heavy) < 0.1 * far(content)
    assert far(heavy) < far(light) < far(content)
    assert (light - content).norm() < (heavy - content).norm()
    assert torch.equal(found(0.0), content)


def test_the_basis_holds_all_energy_when_it_may_and_has_fixed_signs() -> None:
    spectra = torch.rand(30, 8, generator=torch.Generator().manual_seed(0))
    basis = strongest_spectra(spectra, 100)
    assert basis.shape == (30, 8)
    torch.testing.assert_close(basis @ (basis.T @ spectra), spectra)
    torch.testing.assert_close(strongest_spectra(-spectra, 3), basis[:, :3], atol=1e-4, rtol=1e-4)


def test_the_timbre_moves_towards_the_style_s(system: UlyanovLebedev) -> None:
    made = system.transfer(CONTENT, STYLE, TARGET, seed=0)
    assert made.shape == CONTENT.shape
    assert mfcc_distance(made[0], TARGET[0]) < 0.8 * mfcc_distance(CONTENT[0], TARGET[0])


def test_equal_seeds_give_equal_bits_and_clips_do_not_depend_on_their_batch(system: UlyanovLebedev) -> None:
    contents, styles = torch.cat([CONTENT, STYLE]), torch.cat([STYLE, CONTENT])
    together = system.transfer(contents, styles, contents, seed=3)
    again = UlyanovLebedev(CONTEXT, n_filters=256, n_spectra=24, evaluations=12)
    assert torch.equal(together, again.transfer(contents, styles, contents, seed=3))
    torch.testing.assert_close(together[1:], again.transfer(STYLE, CONTENT, STYLE, seed=3), atol=1e-4, rtol=1e-3)


def test_the_target_is_not_looked_at_and_odd_lengths_stay(system: UlyanovLebedev) -> None:
    odd = CONTENT[:, :-123]
    made = system.transfer(odd, STYLE, torch.full_like(odd, float("nan")), seed=0)
    assert made.shape == odd.shape
    assert torch.isfinite(made).all()


def test_silence_stays_silence(system: UlyanovLebedev) -> None:
    made = system.transfer(torch.zeros_like(CONTENT), STYLE, TARGET, seed=0)
    assert torch.isfinite(made).all()
    assert made.abs().max() < 1e-3


def test_too_little_sound_and_bad_settings_are_refused(system: UlyanovLebedev) -> None:
    with pytest.raises(TimbreflowError, match="11 frames"):
        system.transfer(CONTENT[:, :2000], STYLE, TARGET, seed=0)
    with pytest.raises(TimbreflowError, match="style weight -1"):
        UlyanovLebedev(CONTEXT, style_weight=-1.0)
