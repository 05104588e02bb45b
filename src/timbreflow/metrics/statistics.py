"""Means with their uncertainty: percentile bootstrap over clips, paired where systems have the same clips.

Conventions:
    Intervals are 95 % percentile intervals from a seeded bootstrap. Clips are drawn, not frames. A set of one
    clip has no spread: its interval is the value itself.

Reference: Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993.
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


def bootstrap(columns: Sequence[ArrayLike], statistic: Statistic, *, samples: int, seed: int) -> Interval:
    """Interval of a figure made of the means of columns that belong to the same clips.

    Clips are drawn with replacement, and every column is averaged over the same draw: that is what makes ratios and
    differences between systems paired.

    Args:
        columns: arrays [n], one value a clip each.
        statistic: maps the columns' means (arrays of equal shape) to the figure; vectorised.
        samples: number of bootstrap draws, >= 1.
        seed: same seed, same interval.

    Raises:
        TimbreflowError: a column is empty, differs in length, or holds NaN.
    """
    shapes = {np.shape(column) for column in columns}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] == 0:
        raise TimbreflowError("bootstrap needs columns of one length with at least one clip each.")
    table = np.stack([np.asarray(column, dtype=np.float64) for column in columns])
    if not np.isfinite(table).all():
        raise TimbreflowError("a metric is NaN or infinite for some clip; see per_clip.parquet.")
    n_clips = table.shape[1]
    drawn = np.random.default_rng(seed).integers(0, n_clips, size=(samples, n_clips))
    figures = statistic(*(column[drawn].mean(axis=1) for column in table))
    low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(statistic(*(np.asarray(column.mean()) for column in table))), float(low), float(high))


def mean_interval(values: ArrayLike, *, samples: int, seed: int) -> Interval:
    """Mean of one value a clip [n] with its 95 % bootstrap interval."""
    return bootstrap([values], lambda mean: mean, samples=samples, seed=seed)
