"""Bootstrap, Fréchet distance and gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.frechet import frechet_distance
from timbreflow.metrics.gap import gap_closed, generalisation_gap
from timbreflow.metrics.statistics import Interval, bootstrap, mean_interval


def test_intervals_cover_the_true_mean_about_95_times_in_100() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        interval = mean_interval(draw.normal(3.0, 2.0, size=60), samples=300, seed=trial)
        covered += interval.low <= 3.0 <= interval.high
    assert 180 <= covered <= 199


def test_clusters_cover_the_true_mean_where_single_clips_do_not() -> None:
    draw = np.random.default_rng(7)
    clusters = np.repeat(np.arange(30), 8)
    covered = {"clips": 0, "clusters": 0}
    for trial in range(100):
        values = 3.0 + draw.normal(size=30)[clusters] + 0.3 * draw.normal(size=240)
        for name, given_clusters in (("clips", None), ("clusters", clusters)):
            interval = mean_interval(values, samples=200, seed=trial, clusters=given_clusters)
            covered[name] += interval.low <= 3.0 <= interval.high
    assert covered["clusters"] >= 87
    assert covered["clips"] <= 65


def test_clusters_of_one_clip_are_clips_and_larger_ones_weigh_more() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert mean_interval(values, samples=200, seed=5, clusters=np.arange(30)) == mean_interval(
        values, samples=200, seed=5
    )
    assert mean_interval([0.0, 0.0, 3.0], samples=50, seed=0, clusters=["a", "a", "b"]).value == pytest.approx(1.0)
    whole = mean_interval(values, samples=50, seed=0, clusters=np.zeros(30))
    assert whole.low == whole.high == pytest.approx(whole.value)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(size=30)
    first = mean_interval(values, samples=200, seed=5)
    assert mean_interval(values, samples=200, seed=5) == first
    assert mean_interval(values, samples=200, seed=6) != first
    assert first.low < first.value < first.high
    assert first.value == pytest.approx(values.mean())


def test_pairing_sees_a_difference_that_two_intervals_hide() -> None:
    difficulty = np.random.default_rng(2).normal(10.0, 5.0, size=40)
    better = difficulty - 0.5 + np.random.default_rng(3).normal(0, 0.2, size=40)
    difference = bootstrap([better, difficulty], lambda a, b: a - b, samples=500, seed=0)
    assert difference.high < 0
    first, second = (mean_interval(values, samples=500, seed=0) for values in (better, difficulty))
    assert first.high > second.low


def test_bootstrap_refuses_what_has_no_mean() -> None:
    for columns, says in (
        ([], "one length"),
        ([[]], "one length"),
        ([[1.0, 2.0], [1.0]], "one length"),
        ([[[1.0, 2.0]]], "one length"),
        ([[1.0, float("nan")]], "NaN or infinite"),
        ([[1.0, 2.0], [1.0, float("inf")]], "NaN or infinite"),
    ):
        with pytest.raises(TimbreflowError, match=says):
            bootstrap(columns, lambda *means: means[0], samples=10, seed=0)
    single = mean_interval([4.0], samples=10, seed=0)
    assert (single.low, single.value, single.high) == (4.0, 4.0, 4.0)


def test_frechet_distance_of_shifted_and_scaled_normals() -> None:
    points = np.random.default_rng(4).standard_normal((4000, 3))
    assert frechet_distance(points, points) == pytest.approx(0.0, abs=1e-8)
    assert frechet_distance(points, points + np.array([1.0, 2.0, 0.0])) == pytest.approx(5.0, rel=1e-6)
    # Covariance I against 4 I: the squared difference of deviations, one a dimension.
    assert frechet_distance(points - points.mean(0), 2 * (points - points.mean(0))) == pytest.approx(3.0, rel=0.1)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 20), st.integers(0, 10**6))
def test_frechet_distance_stands_singular_covariances(n: int, m: int, width: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    first, second = draw.normal(size=(n, width)), draw.normal(size=(m, width))
    distance = frechet_distance(first, second)
    assert distance >= 0.0
    assert distance == pytest.approx(frechet_distance(second, first), rel=1e-5, abs=1e-6)


def test_frechet_distance_refuses_single_points_other_widths_and_nan() -> None:
    for shapes in (((1, 3), (5, 3)), ((5, 3), (1, 3)), ((5, 2), (5, 3)), ((5,), (5, 3)), ((5, 3), (5,)), ((5,), (5,))):
        with pytest.raises(TimbreflowError, match="two sets") as refusal:
            frechet_distance(*map(np.zeros, shapes))
        assert all(str(shape) in str(refusal.value) for shape in shapes)
    for bad in (np.nan, np.inf):
        for sets in ((np.full((5, 3), bad), np.zeros((5, 3))), (np.zeros((5, 3)), np.full((5, 3), bad))):
            with pytest.raises(TimbreflowError, match="NaN or infinity"):
                frechet_distance(*sets)


def test_frechet_distance_of_correlated_normals() -> None:
    """Rotated by 90 degrees, covariances diag(9, 1) and diag(1, 9): 2 (9 + 1) - 4 sqrt(9)."""
    points = np.random.default_rng(4).standard_normal((500, 2))
    points -= points.mean(0)
    white = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T))).T
    first = white * [3.0, 1.0]
    assert frechet_distance(first, first @ np.array([[0.0, 1.0], [-1.0, 0.0]])) == pytest.approx(8.0)
    assert frechet_distance(first, white) == pytest.approx(4.0)
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])  # of both: only the step of the means is new
    assert frechet_distance(first @ turn, white @ turn + 1.0) == pytest.approx(6.0)


def test_gap_closed_runs_from_content_to_oracle() -> None:
    content, oracle = np.array(10.0), np.array(2.0)
    systems = [10.0, 2.0, 6.0, 14.0]
    assert [float(gap_closed(content, np.array(d), oracle)) for d in systems] == pytest.approx([0.0, 1.0, 0.5, -0.5])
    with np.errstate(all="raise"):
        assert gap_closed(content, np.array(5.0), content) == 0.0


def test_generalisation_gap_is_relative_to_seen() -> None:
    assert generalisation_gap(3.0, 2.0) == pytest.approx(0.5)
    assert generalisation_gap(1.0, 0.0) == 0.0
    assert generalisation_gap(3e-8, 2e-8) == pytest.approx(0.5)
    assert generalisation_gap(1.0, 1e-10) == 0.0


def test_an_interval_is_the_middle_95_percent_of_resampled_means() -> None:
    """Against a loop over draws, for clips, for clusters, and for a figure of two columns."""
    draw = np.random.default_rng(11)
    first, second = draw.normal(2.0, 1.0, 40), draw.normal(5.0, 1.0, 40)
    clusters = np.repeat(np.arange(8), [2, 8, 5, 5, 3, 7, 6, 4])
    for given_clusters, groups in ((None, np.arange(40)), (clusters, clusters)):
        names = np.unique(groups)
        ratios = []
        for chosen in np.random.default_rng(3).integers(0, len(names), size=(300, len(names))):
            rows = np.concatenate([np.flatnonzero(groups == names[each]) for each in chosen])
            ratios.append(first[rows].mean() / second[rows].mean())
        found = bootstrap([first, second], lambda a, b: a / b, samples=300, seed=3, clusters=given_clusters)
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))
        assert found.value == pytest.approx(first.mean() / second.mean())


def test_figures_in_single_precision_are_averaged_in_double() -> None:
    values = (1e5 + np.random.default_rng(0).normal(size=4001)).astype(np.float32)
    assert mean_interval(values, samples=5, seed=0).value == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    points = values[:4000].reshape(1000, 4)
    assert frechet_distance(points, points.astype(np.float64)) == pytest.approx(0.0, abs=1e-8)
    assert frechet_distance(points.astype(np.float64), points) == pytest.approx(0.0, abs=1e-8)


def test_a_figure_of_a_whole_set_has_no_bounds() -> None:
    assert np.isnan([Interval(1.0).low, Interval(1.0).high]).all()
