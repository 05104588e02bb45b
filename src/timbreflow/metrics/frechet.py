"""Fréchet distance: whether the outputs of a system, taken together, are distributed like the real renders.

Lower is better. It compares sets, not clips, so it sees a lack of variety that no average over clips shows.

Conventions:
    Embeddings [n, D] of the timbre metric, each set summarised by its mean and covariance. The estimate is biased
    upwards for small sets: compare only figures of the same n.

Reference: Dowson and Landau 1982; Kilgour et al., *Fréchet Audio Distance*, 2019.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timbreflow.errors import TimbreflowError


def frechet_distance(estimates: ArrayLike, references: ArrayLike) -> float:
    """Squared Fréchet distance between normal distributions fitted to two sets of embeddings [n, D] and [m, D].

    Raises:
        TimbreflowError: the dimensions differ, a set has fewer than two members, or holds NaN.
    """
    first, second = np.asarray(estimates, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise TimbreflowError(
            f"Fréchet distance needs two sets [n >= 2, D] of one width; got {first.shape} and {second.shape}."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise TimbreflowError("an embedding holds NaN or infinity; train the timbre metric again.")
    covariance_a, covariance_b = np.atleast_2d(np.cov(first.T)), np.atleast_2d(np.cov(second.T))
    root = _symmetric_root(covariance_a)
    # tr((A B)^1/2) = tr((A^1/2 B A^1/2)^1/2), and the latter is symmetric: eigenvalues stay real when A is singular.
    cross = np.linalg.eigvalsh(root @ covariance_b @ root)
    means = np.sum(np.square(first.mean(axis=0) - second.mean(axis=0)))
    spread = np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * np.sqrt(np.maximum(cross, 0.0)).sum()
    return float(max(means + spread, 0.0))


def _symmetric_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
