"""The table of a frozen test set: figures, ratios and paired differences of all systems, from figures of clips.

Rows come from two places, systems that were run now and slow baselines whose per-clip files are kept; both are tables
with one row a triple and system, so everything here is computed alike for them.

Conventions:
    Intervals are those of `statistics`: 95 %, clips drawn once for all columns of a figure, so that ratios and
    differences are paired. Fréchet distances need embeddings and have neither an interval nor a figure for stored rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.evaluator import Timing
from timbreflow.evaluation.scores import CLIP_METRICS, DECIMALS, DISTANCES
from timbreflow.evaluation.systems import SYSTEMS
from timbreflow.metrics.frechet import frechet_distance
from timbreflow.metrics.gap import gap_closed, generalisation_gap
from timbreflow.metrics.onsets import note_score
from timbreflow.metrics.statistics import Interval, bootstrap, mean_interval, paired_difference

REFERENCES = ("content_copied", "style_copied", "oracle")
"""Rows that ratios are made with: they are always computed."""

SLOW = ("ulyanov_lebedev", "musaicing", "transcribe_and_render")
"""Rows that take hours: read from per-clip files in git, computed again on request."""

ROWS = ("content_copied", "style_copied", *SLOW, "vqvae-2021", "vqvae", "glow", "oracle")
"""All rows, in the order of the table."""

LABELS = {
    "ulyanov_lebedev": "Ulyanov-Lebedev",
    "musaicing": "musaicing",
    "transcribe_and_render": "transcribe and re-render",
} | {name: spec.label for name, spec in SYSTEMS.items()}

COMPARISONS = (
    ("glow", "vqvae"),
    ("vqvae", "vqvae-2021"),
    ("glow", "transcribe_and_render"),
    ("vqvae", "transcribe_and_render"),
)
"""Pairs (first, second) whose difference first - second the project promises something about."""

FIGURES = ("lsd", "timbre", "timbre_mfcc", "pitch", "onset_f1", "note_score", "stft", "frechet", "family")
RATIOS = ("lsd_ratio", "timbre_gap_closed", "timbre_mfcc_gap_closed")
DIFFERENCES = ("lsd", "timbre", "timbre_mfcc", "pitch", "onset_f1", "note_score", "family")
HIGHER = ("onset_f1", "note_score", "family", "timbre_gap_closed", "timbre_mfcc_gap_closed")
"""Metrics of which more is better."""


@dataclass(frozen=True)
class TestsetTable:
    """All that is said of one test set.

    Args:
        testset: its name.
        n_triples: how many were heard.
        figures: system to metric (`FIGURES` and `RATIOS`) to interval, in the order of `ROWS`.
        comparisons: "first - second" to metric to the interval of the paired difference.
        timing: system to cost, for systems that were run.
        classifier: accuracy of the family classifier on the true targets; None without a classifier.
        generalisation: system to distance to (unseen - seen) / seen; empty until both sets were evaluated.
        metric_digest: names metric code, settings and weights.
        test_digest: names the clips.
        weights: system to the sha256 of its weights, for systems that have some, and that of the vocoder, if any.
        notes: sentences that a reader needs, such as rows left out.
    """

    __test__ = False  # pytest takes a class of this name for tests

    testset: str
    n_triples: int
    figures: dict[str, dict[str, Interval]]
    comparisons: dict[str, dict[str, Interval]]
    timing: dict[str, Timing]
    classifier: Interval | None
    metric_digest: str
    test_digest: str
    weights: dict[str, str] = field(default_factory=dict)
    generalisation: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json: every figure with its bounds, and nothing that depends on the machine."""
        return {
            "testset": self.testset,
            "triples": self.n_triples,
            "systems": _plain(self.figures),
            "comparisons": _plain(self.comparisons),
            "weights": self.weights,
            "family_classifier_on_targets": None if self.classifier is None else _plain(self.classifier),
            "generalisation_gap": _plain(self.generalisation),
            "metric_digest": self.metric_digest,
            "test_digest": self.test_digest,
        }


def joined(computed: pd.DataFrame, stored: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One table [n_systems * n_triples] of systems that were run and of stored rows.

    Args:
        computed: one row a triple and system: triple_id, system, metrics, onset_f1_content, onset_f1_target.
        stored: system to its per-clip file; triples beyond the computed ones are left out.

    Raises:
        TimbreflowError: a stored table lacks a column or a triple, or has one twice.
    """
    content = computed[computed["system"] == "content_copied"].set_index("triple_id")
    parts = [computed]
    for system, table in stored.items():
        missing = [name for name in ("triple_id", *CLIP_METRICS) if name not in table]
        if missing:
            raise TimbreflowError(f"the per-clip file of {system} lacks the column {missing[0]}; make it again.")
        own = table.assign(triple_id=table["triple_id"].astype(str)).set_index("triple_id")
        if not own.index.is_unique or not set(content.index) <= set(own.index):
            raise TimbreflowError(
                f"the per-clip file of {system} was made of other clips than this set has; make it again."
            )
        own = own.loc[content.index]
        ceilings = content[["onset_f1_content", "onset_f1_target"]]
        kept = own.drop(columns=[*ceilings.columns, "system", "set"], errors="ignore")
        parts.append(kept.join(ceilings).reset_index().assign(system=system))
    rows = pd.concat(parts, ignore_index=True)
    rank = {name: number for number, name in enumerate(ROWS)}
    order = rows.assign(rank=rows["system"].map(rank)).sort_values(["rank", "triple_id"]).index
    return rows.loc[order].reset_index(drop=True)


def make_figures(
    clips: pd.DataFrame, embeddings: Mapping[str, NDArray[np.float32]], *, samples: int, seed: int
) -> dict[str, dict[str, Interval]]:
    """Figures and ratios of every system.

    Args:
        clips: of `joined`; a column family (1 right, 0 wrong, NaN not asked) is optional.
        embeddings: system, and "target", to timbre embeddings [n, D].
        samples: bootstrap draws.
        seed: of the bootstrap.
    """
    return {
        system: _figures_of(system, clips, embeddings, samples=samples, seed=seed)
        for system in clips["system"].drop_duplicates()
    }


def make_comparisons(clips: pd.DataFrame, *, samples: int, seed: int) -> dict[str, dict[str, Interval]]:
    """Paired differences of `COMPARISONS`, of those pairs whose rows are there."""
    present = set(clips["system"])
    return {
        f"{first} - {second}": _differences(clips, first, second, samples=samples, seed=seed)
        for first, second in COMPARISONS
        if {first, second} <= present
    }


def make_generalisation(
    unseen: Mapping[str, Mapping[str, float]], seen: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """What every system that makes sound loses on timbres never heard.

    Args:
        unseen: system to distance to mean on unseen timbres.
        seen: the same on timbres drawn as in training.
    """
    return {
        system: {metric: generalisation_gap(unseen[system][metric], seen[system][metric]) for metric in DISTANCES}
        for system in ROWS
        if system in unseen and system in seen and system not in REFERENCES
    }


def classifier_accuracy(right: Sequence[float], *, samples: int, seed: int) -> Interval | None:
    """Accuracy of the family classifier on true targets; None where no target has a family."""
    asked = [value for value in right if not math.isnan(value)]
    return mean_interval(asked, samples=samples, seed=seed) if asked else None


def _figures_of(
    system: str, clips: pd.DataFrame, embeddings: Mapping[str, NDArray[np.float32]], *, samples: int, seed: int
) -> dict[str, Interval]:
    row = {metric: mean_interval(_column(clips, system, metric), samples=samples, seed=seed) for metric in CLIP_METRICS}

    def figure(statistic: Any, *columns: tuple[str, str]) -> Interval:
        return bootstrap([_column(clips, *column) for column in columns], statistic, samples=samples, seed=seed)

    row["note_score"] = figure(
        note_score, (system, "onset_f1"), (system, "onset_f1_target"), (system, "onset_f1_content")
    )
    row["lsd_ratio"] = figure(
        lambda own, content, style: own / np.maximum(np.minimum(content, style), np.finfo(float).tiny),
        *((name, "lsd") for name in (system, "content_copied", "style_copied")),
    )
    for metric in ("timbre", "timbre_mfcc"):
        row[f"{metric}_gap_closed"] = figure(
            gap_closed, *((name, metric) for name in ("content_copied", system, "oracle"))
        )
    if system in embeddings and len(embeddings["target"]) > 1:
        row["frechet"] = Interval(frechet_distance(embeddings[system], embeddings["target"]))
    family = _asked(clips, system)
    if len(family):
        row["family"] = mean_interval(family, samples=samples, seed=seed)
    return {name: row[name] for name in (*FIGURES, *RATIOS) if name in row}


def _differences(clips: pd.DataFrame, first: str, second: str, *, samples: int, seed: int) -> dict[str, Interval]:
    found = {}
    for metric in DIFFERENCES:
        if metric == "note_score":
            columns = [_column(clips, name, "onset_f1") for name in (first, second)]
            columns += [_column(clips, first, f"onset_f1_{role}") for role in ("target", "content")]
            found[metric] = bootstrap(
                columns, lambda a, b, t, c: note_score(a, t, c) - note_score(b, t, c), samples=samples, seed=seed
            )
            continue
        pair = [_asked(clips, name) if metric == "family" else _column(clips, name, metric) for name in (first, second)]
        if len(pair[0]) and len(pair[0]) == len(pair[1]):
            found[metric] = paired_difference(*pair, samples=samples, seed=seed)
    return found


def _column(clips: pd.DataFrame, system: str, metric: str) -> NDArray[np.float64]:
    return clips.loc[clips["system"] == system, metric].to_numpy(dtype=np.float64)


def _asked(clips: pd.DataFrame, system: str) -> NDArray[np.float64]:
    """Right or wrong of the family classifier, of triples whose target has a family."""
    if "family" not in clips:
        return np.empty(0)
    values = _column(clips, system, "family")
    return values[np.isfinite(values)]


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: round(bound, DECIMALS) for name, bound in asdict(value).items() if not math.isnan(bound)}
    if isinstance(value, float):
        return round(value, DECIMALS)
    return {name: _plain(inner) for name, inner in value.items()}
