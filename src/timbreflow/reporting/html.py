"""The report: one HTML file with every table, curve, spectrogram and player in it, that needs no network."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import pandas as pd

from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.evaluator import Example, SetResult, Timing
from timbreflow.evaluation.scores import DISTANCES, HIGHER_IS_BETTER, Scores
from timbreflow.evaluation.systems import SYSTEMS
from timbreflow.metrics.statistics import Interval
from timbreflow.reporting.charts import Point, scatter_chart
from timbreflow.reporting.curves import charts_of_run
from timbreflow.reporting.descriptions import METRICS, SET_TITLES
from timbreflow.reporting.media import audio_uri, spectrogram_uri
from timbreflow.reporting.published import PUBLISHED

LABELS = {"lsd": "LSD", "timbre": "timbre", "pitch": "pitch"}


def render_report(
    scores: Scores,
    results: Sequence[SetResult],
    *,
    timing: Mapping[str, Timing],
    curves: Mapping[str, pd.DataFrame],
    config: EvaluationConfig,
) -> str:
    """The whole page as one string.

    Args:
        scores: figures with intervals.
        results: sets with the triples to listen to, in the order of the page.
        timing: system to cost.
        curves: run to learning curves.
        config: settings that the page states.
    """
    lead = results[0].split
    page: str = (
        _environment()
        .get_template("report.html")
        .render(
            metrics=METRICS,
            sets=[_set_view(result, scores, timing) for result in results],
            cards=_cards(scores.sets[lead]),
            lead_title=SET_TITLES.get(lead, (lead, ""))[0],
            checks=_checks(scores.sets[lead]),
            systems=[{"name": name, "spec": SYSTEMS[name]} for name in SYSTEMS if name in scores.sets[lead]],
            generalisation=[
                {"label": SYSTEMS[name].label, "values": [row[metric] for metric in DISTANCES]}
                for name, row in scores.generalisation.items()
                if SYSTEMS[name].kind in ("model", "baseline")
            ],
            distances=[metric for metric in METRICS if metric.name in DISTANCES],
            comparisons=_comparisons(scores),
            published=PUBLISHED,
            curves=[{"run": run, "charts": charts_of_run(run, table)} for run, table in curves.items()],
            config=config,
            metric_digest=scores.metric_digest,
            test_digest=scores.test_digest,
        )
    )
    return page


@cache
def _environment() -> jinja2.Environment:
    folder = resources.files("timbreflow.reporting") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fixed"] = lambda value, digits: f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
    environment.filters["percent"] = lambda value: f"{100 * value:.0f} %".replace("-", "\N{MINUS SIGN}")
    environment.filters["grouped"] = lambda value: f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return environment


def _set_view(result: SetResult, scores: Scores, timing: Mapping[str, Timing]) -> dict[str, Any]:
    rows = scores.sets[result.split]
    title, lead = SET_TITLES.get(result.split, (result.split, ""))
    best = {metric.name: _best(rows, metric.name) for metric in METRICS}
    return {
        "name": result.split,
        "title": title,
        "lead": lead,
        "n_triples": len(result.embeddings["target"]),
        "rows": [
            {
                "name": name,
                "spec": SYSTEMS[name],
                "cells": [
                    {"metric": metric, "interval": row.get(metric.name), "best": best[metric.name] == name}
                    for metric in METRICS
                ],
                "timing": timing[name],
            }
            for name, row in rows.items()
        ],
        "gaps": _gaps(rows),
        "plane": scatter_chart(
            [
                Point(SYSTEMS[name].label, f"system-{name}", row["timbre"], row["note_score"])
                for name, row in rows.items()
            ],
            title=f"{title}: timbre distance against note score of every system, with 95 % intervals",
            x_label="timbre distance (left is better)",
            y_label="note score (up is better)",
        ),
        "examples": [_example_view(example) for example in result.examples],
        "worst": [
            {"label": SYSTEMS[name].label, "examples": [_example_view(example) for example in examples]}
            for name, examples in result.worst.items()
        ],
    }


def _best(rows: Mapping[str, Mapping[str, Interval]], metric: str) -> str | None:
    """Best among the rows that compete: copies and the ceiling are there to be read against."""
    competing = {
        name: row[metric].value
        for name, row in rows.items()
        if metric in row and SYSTEMS[name].kind in ("model", "baseline")
    }
    if not competing:
        return None
    pick = max if metric in HIGHER_IS_BETTER else min
    return pick(competing, key=lambda name: competing[name])


def _gaps(rows: Mapping[str, Mapping[str, Interval]]) -> list[dict[str, Any]]:
    """Bars of gap closed; 0 and 1 are always on the axis, and bars that leave -1..1.25 are cut there."""
    low, high = -1.0, 1.25
    groups = []
    for metric in METRICS:
        key = f"{metric.name}_gap_closed"
        bars: list[dict[str, Any]] = [
            {"name": name, "label": SYSTEMS[name].label, "interval": row[key]}
            for name, row in rows.items()
            if key in row and SYSTEMS[name].kind in ("model", "baseline")
        ]
        if not bars:
            continue
        floor = max(low, min([0.0, *(bar["interval"].low for bar in bars)]))
        span = high - floor

        def place(value: float, floor: float = floor, span: float = span) -> float:
            return round(100 * (min(max(value, floor), high) - floor) / span, 2)

        for bar in bars:
            interval = bar["interval"]
            ends = sorted((place(0.0), place(interval.value)))
            bar |= {"left": ends[0], "width": ends[1] - ends[0]}
            bar |= {"low": place(interval.low), "spread": place(interval.high) - place(interval.low)}
        groups.append({"metric": metric, "bars": bars, "zero": place(0.0), "one": place(1.0)})
    return groups


def _cards(rows: Mapping[str, Mapping[str, Interval]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "label": SYSTEMS[name].label, "row": row, "gap": row.get("timbre_gap_closed")}
        for name, row in rows.items()
        if SYSTEMS[name].kind in ("model", "baseline")
    ]


def _checks(rows: Mapping[str, Mapping[str, Interval]]) -> list[dict[str, Any]]:
    """What must hold before any figure is believed, and what a transfer must at least reach."""
    checks = []
    if "oracle" in rows:
        for metric in ("lsd", "timbre", "pitch"):
            others = [row[metric].value for name, row in rows.items() if name != "oracle"]
            passed = bool(others) and rows["oracle"][metric].value < min(others)
            checks.append({"text": f"the oracle is best on {LABELS[metric]}", "passed": passed})
    for name, row in rows.items():
        if SYSTEMS[name].kind != "model":
            continue
        for metric, copied in (("timbre", "content_copied"), ("pitch", "style_copied")):
            if copied in rows:
                text = f"{SYSTEMS[name].label} beats {SYSTEMS[copied].label} on {LABELS[metric]}"
                checks.append({"text": text, "passed": row[metric].value < rows[copied][metric].value})
    return checks


def _comparisons(scores: Scores) -> list[dict[str, Any]]:
    views = []
    for split, pairs in scores.comparisons.items():
        for pair, differences in pairs.items():
            first, second = pair.split(" - ")
            cells = []
            for metric in METRICS:
                if metric.name in differences:
                    interval = differences[metric.name]
                    sure = interval.low > 0 or interval.high < 0
                    better = (interval.value > 0) == metric.higher
                    cells.append({"metric": metric, "interval": interval, "sure": sure, "better": better})
            views.append(
                {
                    "set": SET_TITLES.get(split, (split, ""))[0],
                    "first": SYSTEMS[first].label,
                    "second": SYSTEMS[second].label,
                    "cells": cells,
                }
            )
    return views


def _example_view(example: Example) -> dict[str, Any]:
    def player(label: str, role: str, sound: Any, figures: Mapping[str, float] | None) -> dict[str, Any]:
        return {
            "label": label,
            "role": role,
            "audio": audio_uri(sound, example.sample_rate),
            "picture": spectrogram_uri(sound, example.sample_rate),
            "figures": figures,
        }

    return {
        "id": example.triple_id,
        "description": example.description,
        "inputs": [player(role, role, sound, None) for role, sound in example.inputs.items()],
        "outputs": [
            player(SYSTEMS[name].label, name, sound, example.scores[name]) for name, sound in example.outputs.items()
        ],
    }
