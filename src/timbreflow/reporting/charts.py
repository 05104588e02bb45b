"""Charts as inline SVG: they take their colours from the page, so one drawing serves light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from timbreflow.metrics.statistics import Interval

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
MOST_POINTS = 300
"""Points of a curve beyond this many cannot be seen at this width."""


@dataclass(frozen=True)
class Curve:
    """One line.

    Args:
        label: in the legend.
        style: CSS class that colours it.
        x: [n] values.
        y: [n] values; those that are not finite are left out.
    """

    label: str
    style: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Point:
    """One system in a plane.

    Args:
        label: written beside the point.
        style: CSS class that colours it.
        x: horizontal figure with its interval.
        y: vertical figure with its interval.
    """

    label: str
    style: str
    x: Interval
    y: Interval


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def line_chart(curves: Sequence[Curve], *, title: str, x_label: str) -> str:
    """SVG of curves over one axis; says so in words where there is nothing to draw."""
    kept = [(curve, _finite(curve)) for curve in curves]
    points = [point for _, own in kept for point in own]
    if len(points) < 2:
        return f'<p class="note">{escape(title)}: too few points to draw.</p>'
    x_scale = _scale([x for x, _ in points], LEFT, WIDTH - RIGHT, margin=0.0)
    y_scale = _scale(_without_spikes([y for _, y in points]), HEIGHT - BOTTOM, TOP, margin=0.06)
    parts = [_axes(x_scale, y_scale, x_label=x_label, y_label="")]
    for curve, own in kept:
        path = " ".join(f"{x_scale(x):.1f},{min(max(y_scale(y), TOP), HEIGHT - BOTTOM):.1f}" for x, y in _thinned(own))
        parts.append(
            f'<polyline class="line {curve.style}" points="{path}"><title>{escape(curve.label)}</title></polyline>'
        )
    return _svg(title, "".join(parts))


def scatter_chart(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """SVG of systems in the plane of two figures, with their intervals as crosses."""
    if not points:
        return f'<p class="note">{escape(title)}: nothing to draw.</p>'
    x_scale = _scale([v for p in points for v in (p.x.low, p.x.high)], LEFT, WIDTH - RIGHT, margin=0.12)
    y_scale = _scale([v for p in points for v in (p.y.low, p.y.high)], HEIGHT - BOTTOM, TOP, margin=0.12)
    parts = [_axes(x_scale, y_scale, x_label=x_label, y_label=y_label)]
    taken: list[tuple[float, float]] = []
    for point in points:
        x, y = x_scale(point.x.value), y_scale(point.y.value)
        parts.append(
            f'<g class="{point.style}"><line class="whisker" x1="{x_scale(point.x.low):.1f}" '
            f'x2="{x_scale(point.x.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y_scale(point.y.low):.1f}" '
            f'y2="{y_scale(point.y.high):.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(point.label)}: {point.x.value:.3f}, '
            f"{point.y.value:.3f}</title></circle></g>"
        )
        label_y = _free_height(x, y - 9, taken)
        taken.append((x, label_y))
        rightmost = x > WIDTH - RIGHT - 90
        anchor, shift = ("end", -8) if rightmost else ("start", 8)
        parts.append(
            f'<text class="label" x="{x + shift:.1f}" y="{label_y:.1f}" text-anchor="{anchor}">'
            f"{escape(point.label)}</text>"
        )
    return _svg(title, "".join(parts))


def _svg(title: str, content: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{content}</svg>"
    )


def _axes(x_scale: _Scale, y_scale: _Scale, *, x_label: str, y_label: str) -> str:
    parts = []
    for tick in _ticks(y_scale.low, y_scale.high):
        y = y_scale(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(x_scale.low, x_scale.high):
        text = f"{tick / 1000:g}k" if abs(tick) >= 1000 else f"{tick:g}"
        x = x_scale(tick)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(
        f'<text class="axis-label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    if y_label:
        centre = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text class="axis-label" transform="translate(13 {centre}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )
    return "".join(parts)


def _scale(values: Sequence[float], start: float, stop: float, *, margin: float) -> _Scale:
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    room = (high - low) * margin
    return _Scale(low - room, high + room, start, stop)


def _ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]


def _finite(curve: Curve) -> list[tuple[float, float]]:
    pairs = zip(curve.x, curve.y, strict=True)
    return [(float(x), float(y)) for x, y in pairs if math.isfinite(float(x)) and math.isfinite(float(y))]


def _without_spikes(values: Sequence[float]) -> list[float]:
    """Values up to thrice the spread of the middle 90 % away, so that a first step of 10^6 does not flatten a curve."""
    ordered = sorted(values)
    low, high = ordered[int(0.05 * (len(ordered) - 1))], ordered[math.ceil(0.95 * (len(ordered) - 1))]
    room = 3.0 * (high - low)
    return [value for value in ordered if low - room <= value <= high + room]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = -(-len(points) // MOST_POINTS)
    return points if stride <= 1 else [*points[::stride], points[-1]]


def _free_height(x: float, y: float, taken: Sequence[tuple[float, float]]) -> float:
    """Height for a label that no earlier label near this column has, moving up by a line at a time."""
    while any(abs(x - other_x) < 130 and abs(y - other_y) < 12 for other_x, other_y in taken):
        y -= 12
    return y
