"""Means with their uncertainty: percentile bootstrap over clusters of clips, paired where systems have the same clips.

Conventions:
    Intervals are 95 % percentile intervals from a seeded bootstrap. Clusters are drawn, whole: clips of one instrument
    are alike, and treating them as independent makes intervals too narrow. Clips without a cluster are drawn one by
    one. One cluster has no spread: its interval is the value itself. With fewer than some 20 clusters, even these
    intervals are a little too narrow.

References: Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993; Cameron, Gelbach and Miller,
*Bootstrap-Based Improvements for Inference with Clustered Errors*, 2008.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timbreflow.errors import TimbreflowError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its 95 % interval; they are NaN for a figure of a whole set, which has none."""

    value: float
    low: float = math.nan
    high: float = math.nan


Statistic = Callable[..., NDArray[np.float64]]
"""Takes one array of means [...] per column and returns the figure [...] that is made of them."""


def bootstrap(
    columns: Sequence[ArrayLike], statistic: Statistic, *, samples: int, seed: int, clusters: ArrayLike | None = None
) -> Interval:
    """Interval of a figure made of the means of columns that belong to the same clips.

    Clusters are drawn with replacement, and every column is averaged over the clips of the same draw: that is what
    makes ratios and differences between systems paired.

    Args:
        columns: arrays [n], one value a clip each.
        statistic: maps the columns' means (arrays of equal shape) to the figure; vectorised.
        samples: number of bootstrap draws, >= 1.
        seed: same seed, same interval.
        clusters: [n] the cluster of each clip, such as its instrument; None draws single clips.

    Raises:
        TimbreflowError: a column is empty, differs in length, or holds NaN.
    """
    shapes = {np.shape(column) for column in columns}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] == 0:
        raise TimbreflowError("bootstrap needs columns of one length with at least one clip each.")
    table = np.stack([np.asarray(column, dtype=np.float64) for column in columns])
    if not np.isfinite(table).all():
        raise TimbreflowError("a metric is NaN or infinite for some clip; see per_clip.parquet.")
    members = np.arange(table.shape[1]) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    sizes = np.bincount(members)
    drawn = np.random.default_rng(seed).integers(0, len(sizes), size=(samples, len(sizes)))
    n_clips = sizes[drawn].sum(axis=1)
    sums = (np.bincount(members, column) for column in table)
    figures = statistic(*(each[drawn].sum(axis=1) / n_clips for each in sums))
    low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(statistic(*(np.asarray(column.mean()) for column in table))), float(low), float(high))


def mean_interval(values: ArrayLike, *, samples: int, seed: int, clusters: ArrayLike | None = None) -> Interval:
    """Mean of one value a clip [n] with its 95 % bootstrap interval; see `bootstrap`."""
    return bootstrap([values], lambda mean: mean, samples=samples, seed=seed, clusters=clusters)
