"""The table of a test set as people read it: in the shell and as Markdown, beside the table of the 2021 paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from timbreflow.evaluation.table import HIGHER, LABELS, TestsetTable
from timbreflow.metrics.statistics import Interval
from timbreflow.reporting.published import PUBLISHED

NONE = "-"
TITLES = {
    "lsd": "LSD (dB)",
    "timbre": "timbre (triplet)",
    "timbre_mfcc": "timbre (MFCC twin)",
    "pitch": "pitch",
    "onset_f1": "onset F1",
    "note_score": "note score",
    "stft": "STFT",
    "frechet": "Fréchet",
    "family": "family right",
    "lsd_ratio": "LSD / better copy's",
    "timbre_gap_closed": "gap closed (triplet)",
    "timbre_mfcc_gap_closed": "gap closed (MFCC)",
}
TWO_DIGITS = ("lsd", "lsd_ratio", "timbre_gap_closed", "timbre_mfcc_gap_closed", "note_score", "family")
GROUPS = (
    ("Distances to the target (lower is better)", ("lsd", "timbre", "timbre_mfcc", "pitch")),
    ("Notes, texture and family", ("onset_f1", "note_score", "stft", "frechet", "family")),
)
RATIO_GROUP = ("lsd_ratio", "timbre_gap_closed", "timbre_mfcc_gap_closed", "note_score")


@dataclass(frozen=True)
class Grid:
    """One table of words.

    Args:
        title: above it.
        head: [n] names of columns.
        rows: [m] of [n] cells.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Columns under one another, for the shell."""
        widths = [max(len(row[index]) for row in (self.head, *self.rows)) for index in range(len(self.head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (self.head, *self.rows)
        ]
        return "\n".join([self.title, "", lines[0], "  ".join("-" * width for width in widths), *lines[1:]])

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = ["| " + " | ".join(row) + " |" for row in (self.head, *self.rows)]
        return "\n".join([f"## {self.title}", "", lines[0], "|" + " --- |" * len(self.head), *lines[1:]])


def render_text(table: TestsetTable) -> str:
    """Everything, for the shell."""
    parts = [_heading(table), *(grid.text() for grid in _grids(table)), *_sentences(table)]
    return "\n\n".join(parts)


def render_markdown(table: TestsetTable) -> str:
    """Everything and the published table, for results/testsets/NAME/table.md."""
    parts = [f"# {_heading(table)}", *(grid.markdown() for grid in _grids(table)), *_sentences(table)]
    return "\n\n".join([*parts, _published().markdown()]) + "\n"


def _heading(table: TestsetTable) -> str:
    return f"Test set {table.testset}: {table.n_triples} triples, mean and 95 % bootstrap interval"


def _grids(table: TestsetTable) -> list[Grid]:
    grids = [
        Grid(
            title,
            ["system", *(TITLES[metric] for metric in metrics)],
            [
                [LABELS.get(name, name), *(_cell(row.get(metric), metric) for metric in metrics)]
                for name, row in table.figures.items()
            ],
        )
        for title, metrics in GROUPS
    ]
    grids.append(
        Grid(
            "Ratios and cost",
            ["system", *(TITLES[metric] for metric in RATIO_GROUP), "x real time", "parameters"],
            [
                [
                    LABELS.get(name, name),
                    *(_cell(row.get(metric), metric) for metric in RATIO_GROUP),
                    *_cost(table, name),
                ]
                for name, row in table.figures.items()
            ],
        )
    )
    if table.comparisons:
        grids.append(_comparisons(table))
    if table.generalisation:
        metrics = list(next(iter(table.generalisation.values())))
        grids.append(
            Grid(
                "Gap seen -> unseen timbres: (unseen - seen) / seen",
                ["system", *(TITLES[metric] for metric in metrics)],
                [
                    [LABELS.get(name, name), *(f"{100 * row[metric]:+.0f} %" for metric in metrics)]
                    for name, row in table.generalisation.items()
                ],
            )
        )
    return grids


def _comparisons(table: TestsetTable) -> Grid:
    """Differences stand as rows: each has an interval and a verdict, which is too wide for columns."""
    rows = []
    for pair, differences in table.comparisons.items():
        first, second = pair.split(" - ")
        for number, (metric, interval) in enumerate(differences.items()):
            name = f"{LABELS[first]} - {LABELS[second]}" if number == 0 else ""
            rows.append([name, TITLES[metric], _cell(interval, metric, signed=True), _verdict(interval, metric)])
    return Grid("Paired differences", ["pair", "metric", "difference", "the first is"], rows)


def _verdict(difference: Interval, metric: str) -> str:
    if difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.value > 0) == (metric in HIGHER) else "worse"


def _sentences(table: TestsetTable) -> list[str]:
    sentences = list(table.notes)
    if table.classifier is not None:
        sentences.insert(
            0,
            f"The family classifier names {_cell(table.classifier, 'family')} of the true targets' families: read "
            "the column against it.",
        )
    return sentences


def _cost(table: TestsetTable, name: str) -> tuple[str, str]:
    if name not in table.timing:
        return NONE, NONE
    timing = table.timing[name]
    speed = NONE if timing.times_real_time is None else f"{timing.times_real_time:.1f}"
    return speed, f"{timing.parameters / 1e6:.1f} M" if timing.parameters else NONE


def _cell(interval: Interval | None, metric: str, *, signed: bool = False) -> str:
    if interval is None:
        return NONE
    digits = 2 if metric in TWO_DIGITS else 3

    def number(value: float) -> str:
        # An empty minus sign before a rounded 0 would claim a direction.
        return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"

    if math.isnan(interval.low):
        return number(interval.value)
    return f"{number(interval.value)} ({number(interval.low)}, {number(interval.high)})"


def _published() -> Grid:
    return Grid(
        "The table of Cífka et al. 2021 (other data: shapes must agree, numbers need not)",
        ["system", "artificial LSD", "timbre", "pitch", "real timbre", "real pitch"],
        [
            [
                row.system,
                f"{row.lsd:.2f}",
                *(f"{value:.4f}" for value in (row.timbre, row.pitch, row.real_timbre, row.real_pitch)),
            ]
            for row in PUBLISHED
        ],
    )
