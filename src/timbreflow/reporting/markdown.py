"""The table of a test set as people read it: in the shell and as Markdown, beside the table of the 2021 paper."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from timbreflow.evaluation.evaluate import Timing
from timbreflow.evaluation.summary import Summary
from timbreflow.evaluation.systems import spec_of
from timbreflow.metrics.registry import BY_NAME, GROUPS, METRICS, Metric
from timbreflow.metrics.statistics import Interval
from timbreflow.reporting.published import PUBLISHED

NONE = "-"


@dataclass(frozen=True)
class Table:
    """Everything that is reported on one test set.

    Args:
        heading: names the set.
        summary: its figures.
        timing: system to cost, for systems that were run.
        generalisation: system to distance to (unseen - seen) / seen; empty until both sets were evaluated.
        notes: sentences that a reader needs, such as rows left out.
    """

    heading: str
    summary: Summary
    timing: Mapping[str, Timing]
    generalisation: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Grid:
    """One table of words: a title, the names of [n] columns, and rows of [n] cells."""

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


def render_text(table: Table) -> str:
    """Everything, for the shell."""
    return "\n\n".join([_heading(table), *(grid.text() for grid in _grids(table)), *_sentences(table)])


def render_markdown(table: Table) -> str:
    """Everything and the published table."""
    parts = [f"# {_heading(table)}", *(grid.markdown() for grid in _grids(table)), *_sentences(table)]
    return "\n\n".join([*parts, _published().markdown()]) + "\n"


def cell(metric: Metric, interval: Interval | None, *, signed: bool = False) -> str:
    """A figure with its bounds, where it has some."""
    if interval is None:
        return NONE
    value, low, high = (metric.text(bound, signed=signed) for bound in (interval.value, interval.low, interval.high))
    return value if math.isnan(interval.low) else f"{value} ({low}, {high})"


def _heading(table: Table) -> str:
    interval = "95 % interval (bootstrap over instruments of the targets)"
    return f"{table.heading}: {table.summary.n_triples} triples, mean and {interval}"


def _grids(table: Table) -> list[_Grid]:
    figures = table.summary.figures
    grids = []
    for group, title in GROUPS.items():
        metrics = [m for m in METRICS if m.group == group and any(m.name in row for row in figures.values())]
        head = ["system", *(metric.head for metric in metrics)]
        rows = [[spec_of(name).label, *(cell(m, row.get(m.name)) for m in metrics)] for name, row in figures.items()]
        if group == "ratio":
            head += ["x real time", "parameters"]
            rows = [[*row, *_cost(table.timing, name)] for row, name in zip(rows, figures, strict=True)]
        grids.append(_Grid(title, head, rows))
    if table.summary.differences:
        grids.append(_differences(table.summary))
    if table.generalisation:
        metrics = [m for m in METRICS if any(m.name in row for row in table.generalisation.values())]
        grids.append(
            _Grid(
                "Gap seen -> unseen timbres: (unseen - seen) / seen",
                ["system", *(metric.head for metric in metrics)],
                [
                    [
                        spec_of(name).label,
                        *(f"{100 * row[m.name]:+.0f} %" if m.name in row else NONE for m in metrics),
                    ]
                    for name, row in table.generalisation.items()
                ],
            )
        )
    return grids


def _differences(summary: Summary) -> _Grid:
    """Differences stand as rows: each has an interval and a verdict, which is too wide for columns."""
    rows = []
    for pair, figures in summary.differences.items():
        first, second = pair.split(" - ")
        for number, (name, interval) in enumerate(figures.items()):
            title = f"{spec_of(first).label} - {spec_of(second).label}" if number == 0 else ""
            metric = BY_NAME[name]
            rows.append([title, metric.head, cell(metric, interval, signed=True), verdict(metric, interval)])
    return _Grid("Paired differences", ["pair", "metric", "difference", "the first is"], rows)


def verdict(metric: Metric, difference: Interval) -> str:
    """Which of two systems is better, by the interval of first - second."""
    if difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.value > 0) == (metric.direction == "higher") else "worse"


def _sentences(table: Table) -> list[str]:
    sentences = list(table.notes)
    if table.summary.targets_family is not None:
        accuracy = cell(BY_NAME["family"], table.summary.targets_family)
        sentences.insert(
            0, f"The family classifier names {accuracy} of the true targets' families: compare the column with it."
        )
    return sentences


def _cost(timing: Mapping[str, Timing], name: str) -> tuple[str, str]:
    if name not in timing:
        return NONE, NONE
    entry = timing[name]
    speed = NONE if entry.times_real_time is None else f"{entry.times_real_time:.1f}"
    return speed, f"{entry.parameters / 1e6:.1f} M" if entry.parameters else NONE


def _published() -> _Grid:
    return _Grid(
        "The table of Cífka et al. 2021 (other data: compare the order of the rows, not the numbers)",
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
