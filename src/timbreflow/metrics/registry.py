"""All metrics, one entry each: tables, reports, comparisons and plots take names, labels and digits from here alone.

A metric of single clips gives `measure`, a function of an output, its target and what is known of the target. A figure
that is made of means over a set, such as a ratio, gives `columns` and `statistic` instead. docs/extending.md shows how
to add one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from timbreflow.metrics.analysis import Analysis, Truth
from timbreflow.metrics.gap import gap_closed
from timbreflow.metrics.lsd import decibel_distance
from timbreflow.metrics.onsets import note_score, onset_f1
from timbreflow.metrics.pitch import pitch_distance
from timbreflow.metrics.statistics import Statistic
from timbreflow.metrics.stft import stft_distance
from timbreflow.metrics.timbre import cosine_distance

OWN = ""
"""Stands for the system whose figure is computed, where a column names its system."""

Group = Literal["distance", "other", "ratio"]
GROUPS: dict[Group, str] = {
    "distance": "Distances to the target (lower is better)",
    "other": "Notes, texture and family",
    "ratio": "Ratios and cost",
}
"""Tables in which metrics stand, and their titles."""


@dataclass(frozen=True)
class Metric:
    """What is known of a metric.

    Args:
        name: its column in the per-clip table and its key in metrics.json.
        label: its name for people.
        direction: which values are better.
        digits: decimals that are shown.
        meaning: one sentence for somebody who meets it first.
        group: table that it stands in; distances to the target also have a gap closed and a generalisation gap.
        unit: such as dB; empty where there is none.
        measure: figure of one output; None for figures of sets.
        columns: (system or `OWN`, column) whose means `statistic` takes; by default the metric's own column.
        statistic: from the means to the figure.
        optional: it is NaN for some clips, which are left out.
    """

    name: str
    label: str
    direction: Literal["lower", "higher"]
    digits: int
    meaning: str
    group: Group = "other"
    unit: str = ""
    measure: Callable[[Analysis, Analysis, Truth], float] | None = None
    columns: tuple[tuple[str, str], ...] = ()
    statistic: Statistic = np.asarray
    optional: bool = False

    @property
    def head(self) -> str:
        """Label with unit, for the head of a column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """The columns that its figure is made of; none where it is made of embeddings."""
        return self.columns or (((OWN, self.name),) if self.measure else ())

    def text(self, value: float, *, signed: bool = False) -> str:
        """A value with its digits."""
        # Adding 0 removes the minus sign of a rounded -0, which would claim a direction.
        return f"{round(value, self.digits) + 0.0:{'+' if signed else ''}.{self.digits}f}"


def _lsd(estimate: Analysis, target: Analysis, truth: Truth) -> float:
    # Inversion may lose an unfinished frame; `stft_distance` refuses outputs that differ by more.
    frames = min(estimate.decibels.shape[1], target.decibels.shape[1])
    return decibel_distance(estimate.decibels[:, :frames], target.decibels[:, :frames])


def _family(estimate: Analysis, target: Analysis, truth: Truth) -> float:
    return math.nan if None in (estimate.family, truth.family) else float(estimate.family == truth.family)


def _over_better_copy(
    own: NDArray[np.float64], content: NDArray[np.float64], style: NDArray[np.float64]
) -> NDArray[np.float64]:
    return own / np.maximum(np.minimum(content, style), np.finfo(float).tiny)


def _gap(distance: Metric) -> Metric:
    return Metric(
        f"{distance.name}_gap_closed",
        f"gap closed ({distance.label})",
        "higher",
        2,
        f"Share of the way from the untouched content (0) to the oracle (1) by {distance.label}; below 0 is worse than "
        "doing nothing.",
        group="ratio",
        columns=tuple((system, distance.name) for system in ("content_copied", OWN, "oracle")),
        statistic=gap_closed,
    )


DISTANCES = (
    Metric(
        "lsd",
        "LSD",
        "lower",
        2,
        "How far the spectrogram lies from the true target, band by band, in decibels. It rewards a careful average, "
        "so a blurred sound can score well.",
        group="distance",
        unit="dB",
        measure=_lsd,
    ),
    Metric(
        "timbre",
        "timbre",
        "lower",
        3,
        "Distance between output and target in a network that was trained to distinguish instruments; 0 is the same "
        "instrument, 1 is unrelated.",
        group="distance",
        measure=lambda estimate, target, truth: cosine_distance(estimate.embedding, target.embedding),
    ),
    Metric(
        "timbre_mfcc",
        "MFCC distance",
        "lower",
        3,
        "The same question asked without a trained network: cosine distance of the mean and the deviation of MFCC "
        "2-13. The two should agree on the order of the rows.",
        group="distance",
        measure=lambda estimate, target, truth: cosine_distance(estimate.mfcc, target.mfcc),
    ),
    Metric(
        "pitch",
        "pitch",
        "lower",
        3,
        "Share of sounding pitches on which transcriptions of output and target disagree. The transcriber is "
        "better on some instruments than on others, so even the content scores above 0.",
        group="distance",
        measure=lambda estimate, target, truth: pitch_distance(estimate.notes, target.notes, duration=target.duration),
    ),
)
"""Distances to the true target."""

METRICS = (
    *DISTANCES,
    Metric(
        "onset_f1",
        "onset F1",
        "higher",
        3,
        "How many of the true notes a transcriber finds in the output, within 50 ms unless the table says otherwise, "
        "and how few it invents; 1 is all of them.",
        measure=lambda estimate, target, truth: onset_f1(estimate.notes, truth.notes, tolerance=truth.onset_tolerance),
    ),
    Metric(
        "note_score",
        "note score",
        "higher",
        2,
        "Onset F1 divided by the best that the transcriber reaches on real renders of the same notes; about 1 means "
        "that no note was lost.",
        columns=((OWN, "onset_f1"), (OWN, "onset_f1_target"), (OWN, "onset_f1_content")),
        statistic=note_score,
    ),
    Metric(
        "stft",
        "STFT",
        "lower",
        3,
        "Multi-resolution distance of linear spectrograms: LSD's companion for fine detail.",
        measure=lambda estimate, target, truth: stft_distance(estimate.audio, target.audio),
    ),
    Metric(
        "frechet",
        "Fréchet",
        "lower",
        3,
        "Distance between all outputs and all targets taken as two clouds of timbre embeddings; it also rises "
        "where variety is missing.",
    ),
    Metric(
        "family",
        "family right",
        "higher",
        2,
        "Share of outputs in which a classifier names the target's General MIDI family; it errs on true targets too.",
        measure=_family,
        optional=True,
    ),
    Metric(
        "lsd_ratio",
        "LSD / better copy's",
        "lower",
        2,
        "LSD divided by that of the better one of content copied and style copied.",
        group="ratio",
        columns=((OWN, "lsd"), ("content_copied", "lsd"), ("style_copied", "lsd")),
        statistic=_over_better_copy,
    ),
    *(_gap(distance) for distance in DISTANCES),
)
"""Every metric, in the order of tables."""

BY_NAME = {metric.name: metric for metric in METRICS}
PER_CLIP = tuple(metric for metric in METRICS if metric.measure)
"""Metrics that are columns of the per-clip table."""

CEILINGS = {"onset_f1": ("content", "target"), "family": ("target",)}
"""Metrics that are also measured on true recordings, as the best that a system can reach."""
CEILING_COLUMNS = tuple(f"{name}_{role}" for name, roles in CEILINGS.items() for role in roles)


def measure_clip(estimate: Analysis, target: Analysis, truth: Truth) -> dict[str, float]:
    """All metrics of one output, by name."""
    return {metric.name: metric.measure(estimate, target, truth) for metric in PER_CLIP if metric.measure}


def measure_ceilings(content: Analysis, target: Analysis, truth: Truth) -> dict[str, float]:
    """What the transcriber and the classifier reach on true recordings: onset_f1_content and the like."""
    inputs = {"content": content, "target": target}
    return {
        f"{name}_{role}": measure(inputs[role], target, truth)
        for name, roles in CEILINGS.items()
        for role in roles
        if (measure := BY_NAME[name].measure)
    }
