"""Charts as inline SVG, drawn by matplotlib, that take their colours from the page: one drawing for light and dark.

matplotlib draws with placeholders, `COLOURS`, which become the page's CSS variables; text stays text.
"""

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from timbreflow.metrics.statistics import Interval

WIDTH, HEIGHT = 4.6, 2.8
"""In inches of 72 pixels; the page scales them."""
MOST_POINTS = 300
"""Points of a curve beyond this many cannot be seen at this width."""
COLOURS = {"soft": "#010203", "ink": "#010204", "rule": "#010205"}
"""CSS variables of the page's frame, and their placeholders."""
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "timbreflow",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.edgecolor": COLOURS["soft"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.color": COLOURS["rule"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
}


@dataclass(frozen=True)
class Curve:
    """One line of points [n], of which those that are not finite are left out; its colour is a CSS variable."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """Two figures of one system; its colour is a CSS variable."""

    label: str
    colour: str
    x: Interval
    y: Interval


def line_chart(curves: Sequence[Curve], *, title: str, x_label: str) -> str:
    """SVG of curves over one axis; says so in words where there is nothing to draw."""
    kept = []
    for curve in curves:
        x, y = np.asarray(curve.x, dtype=float), np.asarray(curve.y, dtype=float)
        finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        stride = max(1, -(-len(finite) // MOST_POINTS))
        finite = np.unique(np.append(finite[::stride], finite[-1:]))
        kept.append((curve, x[finite], y[finite]))
    values = np.concatenate([y for _, _, y in kept]) if kept else np.empty(0)
    if len(values) < 2:
        return f'<p class="note">{escape(title)}: too few points to draw.</p>'
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _figure(WIDTH, HEIGHT)
        for curve, x, y in kept:
            axes.plot(
                x, y, color=_placeholder(curve.colour), linestyle="--" if curve.dashed else "-", label=curve.label
            )
        # A first step of 10^6 must not flatten a curve: the axis ends thrice the spread of the middle 90 % away.
        low, high = np.quantile(values, [0.05, 0.95])
        shown = values[np.abs(values - np.clip(values, low, high)) <= 3 * (high - low)]
        margin = 0.06 * (shown.max() - shown.min()) or 0.5
        axes.set_ylim(shown.min() - margin, shown.max() + margin)
        axes.set_xlabel(x_label)
        return _svg(figure, title, [curve.colour for curve in curves])


def scatter_chart(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """SVG of systems in the plane of two figures, with their intervals as crosses."""
    if not points:
        return f'<p class="note">{escape(title)}: nothing to draw.</p>'
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _figure(WIDTH, HEIGHT)
        for point in points:
            bars: Any = {"xerr": _bounds(point.x), "yerr": _bounds(point.y), "color": _placeholder(point.colour)}
            axes.errorbar(point.x.value, point.y.value, fmt="o", elinewidth=1, **bars)
        axes.margins(0.12)
        figure.draw_without_rendering()
        taken: list[np.ndarray] = []
        for point in sorted(points, key=lambda point: -point.y.value):
            at = axes.transData.transform((point.x.value, point.y.value))
            shift = 5.0
            # Labels move up, a line at a time, until none lies under them (72 pixels an inch).
            while any(abs(at[0] - x) < 90 and abs(at[1] + shift - y) < 11 for x, y in taken):
                shift += 11
            taken.append(np.array([at[0], at[1] + shift]))
            right = at[0] > 0.7 * WIDTH * figure.dpi
            axes.annotate(
                point.label,
                (point.x.value, point.y.value),
                (-5 if right else 5, shift),
                ha="right" if right else "left",
                textcoords="offset pixels",
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _svg(figure, title, [point.colour for point in points])


def bar_chart(bars: Sequence[tuple[str, str, Interval]], *, title: str) -> str:
    """SVG of bars (label, colour, share) with intervals, on an axis from 0, or -1 at the least, to 1.25."""
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _figure(WIDTH, 0.5 + 0.26 * len(bars))
        for row, (_, colour, share) in enumerate(bars):
            axes.barh(row, share.value, height=0.6, color=_placeholder(colour))
            axes.errorbar(share.value, row, xerr=_bounds(share), color=COLOURS["ink"], elinewidth=1)
        axes.set_yticks(range(len(bars)), [f"{label}: {100 * share.value:.0f} %" for label, _, share in bars])
        axes.invert_yaxis()
        axes.set_xlim(max(-1.0, min(0.0, *(share.low for _, _, share in bars))), 1.25)
        for end in (0, 1):
            axes.axvline(end, color=COLOURS["soft"], linewidth=1)
        axes.grid(visible=False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        return _svg(figure, title, [colour for _, colour, _ in bars])


def interval_chart(
    rows: Sequence[tuple[str, str, Interval]], *, title: str, ends: tuple[float, float] | None = None
) -> str:
    """SVG of figures with their intervals, one below the other.

    Args:
        rows: label, CSS variable of the colour, and figure of each system.
        title: for those who do not see it.
        ends: of the axis; None takes what the intervals need.
    """
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _figure(WIDTH, 0.5 + 0.26 * len(rows))
        for row, (_, colour, value) in enumerate(rows):
            axes.errorbar(value.value, row, xerr=_bounds(value), fmt="o", color=_placeholder(colour), elinewidth=1.5)
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(*(ends or (None, None)))
        return _svg(figure, title, [colour for _, colour, _ in rows])


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_axisbelow(True)
    return figure, axes


def _bounds(interval: Interval) -> list[list[float]]:
    """As matplotlib wants them: distances from the value."""
    return [[max(interval.value - interval.low, 0.0)], [max(interval.high - interval.value, 0.0)]]


def _placeholder(variable: str) -> str:
    """A colour that stands for a CSS variable; nothing else is drawn in it."""
    return f"#02{zlib.crc32(variable.encode()) & 0xFFFF:04x}"


def _svg(figure: Figure, title: str, variables: Sequence[str]) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    for variable, colour in {**COLOURS, **{name: _placeholder(name) for name in variables}}.items():
        drawing = drawing.replace(colour, f"var(--{variable})")
    # Ids of groups would stand many times in one page; those that are referred to name equal things.
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    label = f'<svg class="chart" role="img" aria-label="{escape(title, quote=True)}"'
    # Its <style> would hold for the whole page.
    return re.sub(r"<(metadata|style).*?</\1>", "", drawing, flags=re.DOTALL).replace("<svg", label, 1)
