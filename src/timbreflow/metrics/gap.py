"""Gaps: how much of the way a system went, and how much it loses on instruments that it was not trained on.

Metrics:
    * :func:`gap_closed` = (d(content) - d(system)) / (d(content) - d(oracle)). 0: no nearer to the target than the
      untouched content; 1: as near as the target's own spectrogram through the same inversion; below 0: worse than
      doing nothing. With the oracle as the end of the scale, the cost of inversion does not count against a model.
    * :func:`generalisation_gap` = (unseen - seen) / seen of a distance; 0: unseen timbres are no harder.
"""

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-9
"""Denominators nearer to zero than this have no meaning: the gap is reported as 0."""


def gap_closed(
    content: NDArray[np.float64], system: NDArray[np.float64], oracle: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of the distance between content and oracle that a system closes; arrays of distances of one shape."""
    return _ratio(np.asarray(content) - np.asarray(system), np.asarray(content) - np.asarray(oracle))


def generalisation_gap(unseen: float, seen: float) -> float:
    """Relative rise of a distance from seen to unseen timbres."""
    return float(_ratio(np.asarray(unseen - seen), np.asarray(seen)))


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    usable = np.abs(denominator) > SMALLEST
    return np.where(usable, numerator / np.where(usable, denominator, 1.0), 0.0)
