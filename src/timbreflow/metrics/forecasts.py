"""How well several samples tell where the target lies: scores of a distribution that also hold for a single prediction.

Conventions: samples are [S, M, T] log-mels in dB of one clip, the target [M, T]; S = 1 is a prediction without spread.
Lower is better. Both scores are least, on average over many clips, for samples of the distribution that the targets
come from: a blurred mean pays for its error, and noise without meaning pays more. Both are estimated without bias for
samples of any number ("fair", Ferro 2014), so that single predictions and samples can be compared.

Metrics:
    * :func:`crps`: continuous ranked probability score, cell by cell (Matheson and Winkler 1976). That of a single
      prediction is its mean absolute error.
    * :func:`energy_score`: the same for whole frames, which also sees whether bands vary together (Gneiting and Raftery
      2007, *Strictly Proper Scoring Rules*). That of a single prediction is its distance from frame to frame, which is
      LSD but for the order of the means: there frames are squared, here bands.
    * :func:`variance_ratio`: whether the samples vary over time as much as the target, band by band.
    * :func:`best_of`: log-spectral distance of the sample that is nearest to the target. Any spread lowers it, so it is
      to be read beside the scores.
"""

import numpy as np
from numpy.typing import NDArray

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.lsd import decibel_distance

Decibels = NDArray[np.floating]


def crps(samples: Decibels, target: Decibels) -> float:
    """Continuous ranked probability score of samples [S, M, T] in dB, mean over bands and frames."""
    _validate(samples, target)
    count = len(samples)
    error = float(np.abs(samples - target).mean())
    if count == 1:
        return error
    # Of sorted samples, the i-th is subtracted from count - 1 - i others and i are subtracted from it.
    weights = 2.0 * np.arange(count) - count + 1
    spread = np.tensordot(weights, np.sort(samples, axis=0), axes=1) / (count * (count - 1))
    return error - float(spread.mean())


def energy_score(samples: Decibels, target: Decibels) -> float:
    """Energy score of the frames of samples [S, M, T] in dB, as root mean square over bands and mean over frames."""
    _validate(samples, target)
    count = len(samples)
    error = float(np.mean([_distance(sample, target) for sample in samples]))
    if count == 1:
        return error
    pairs = [_distance(samples[i], samples[j]) for i in range(count) for j in range(i)]
    return error - float(np.mean(pairs)) / 2


def variance_ratio(samples: Decibels, target: Decibels) -> NDArray[np.float64]:
    """Variance over time of samples [S, M, T], mean over them, over the target's: [M], NaN where it does not vary."""
    _validate(samples, target)
    wanted = np.asarray(target, np.float64).var(axis=-1)
    found = np.asarray(samples, np.float64).var(axis=-1).mean(axis=0)
    return np.divide(found, wanted, out=np.full(len(wanted), np.nan), where=wanted > 0)


def best_of(samples: Decibels, target: Decibels) -> float:
    """Log-spectral distance of the nearest sample of [S, M, T], in dB."""
    _validate(samples, target)
    return min(decibel_distance(sample, target) for sample in samples)


def _distance(first: Decibels, second: Decibels) -> float:
    """Root mean square over bands, mean over frames, of [M, T]."""
    return float(np.sqrt(np.square(first - second).mean(axis=0)).mean())


def _validate(samples: Decibels, target: Decibels) -> None:
    if samples.ndim != 3 or len(samples) == 0 or samples.shape[1:] != target.shape or 0 in target.shape:
        raise TimbreflowError(f"Samples {samples.shape} of a target {target.shape} must be [S, M, T] of [M, T].")
