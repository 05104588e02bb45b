"""Scores of samples from known distributions."""

import numpy as np
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.forecasts import best_of, crps, energy_score, variance_ratio

SHAPE = (16, 400)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_crps_of_a_normal_is_its_formula() -> None:
    # Of N(0, 1) at y: y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi); .2337 at 0 and .6024 at 1 (Gneiting and Raftery).
    for y, wanted in ((0.0, 0.23370), (1.0, 0.60244)):
        for count in (2, 8):  # without bias for any number of samples
            found = crps(normals(count, count, 64, 2000), np.full((64, 2000), y))
            assert found == pytest.approx(wanted, abs=0.01)


def test_single_predictions_have_their_errors() -> None:
    prediction, target = normals(1, 1, *SHAPE), normals(2, *SHAPE)
    assert crps(prediction, target) == pytest.approx(np.abs(prediction[0] - target).mean())
    rms = np.sqrt(np.square(prediction[0] - target).mean(axis=0)).mean()
    assert energy_score(prediction, target) == pytest.approx(rms)


@pytest.mark.parametrize("score", [crps, energy_score])
def test_samples_of_the_targets_distribution_score_best(score: object) -> None:
    assert callable(score)
    target, samples = normals(3, *SHAPE), normals(4, 8, *SHAPE)
    right = score(samples, target)
    assert right < score(np.zeros((1, *SHAPE)), target)  # the mean, without spread
    assert right < min(score(0.5 * samples, target), score(2 * samples, target), score(samples + 1, target))


def test_the_energy_score_sees_bands_that_vary_together_and_the_crps_does_not() -> None:
    level, own = normals(5, 1, 1, 4000), normals(6, 8, 1, 4000)
    target = np.repeat(level[0], 16, axis=0)
    together = np.repeat(own, 16, axis=1)
    apart = normals(7, 8, 16, 4000)
    assert crps(together, target) == pytest.approx(crps(apart, target), abs=0.02)
    assert energy_score(together, target) < energy_score(apart, target) - 0.05


def test_the_variance_ratio_is_a_bands() -> None:
    target = normals(8, 4, 5000)
    target[3] = 1.0
    factors = np.array([0.5, 1.0, 2.0, 1.0])
    found = variance_ratio(factors[:, None] * normals(9, 8, 4, 5000), target)
    np.testing.assert_allclose(found[:3], [0.25, 1.0, 4.0], rtol=0.1)
    assert np.isnan(found[3])


def test_the_best_of_more_samples_is_nearer() -> None:
    target, samples = normals(10, *SHAPE), normals(11, 8, *SHAPE)
    samples[5] = target + 0.25
    assert best_of(samples, target) == pytest.approx(0.25)
    assert best_of(samples[:2], target) > 1.0


@pytest.mark.parametrize("shape", [(16, 400), (0, 16, 400), (2, 16, 399)])
def test_samples_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    for score in (crps, energy_score, variance_ratio, best_of):
        with pytest.raises(TimbreflowError, match="must be"):
            score(np.zeros(shape), np.zeros(SHAPE))
