"""The report: one HTML file with every table, curve, spectrogram and player in it, that needs no network."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import pandas as pd

from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.evaluate import Evaluation, Example
from timbreflow.evaluation.summary import Figures, Summary
from timbreflow.evaluation.systems import SYSTEMS
from timbreflow.metrics.registry import BY_NAME, DISTANCES, METRICS, Metric
from timbreflow.reporting.charts import Point, bar_chart, scatter_chart
from timbreflow.reporting.curves import charts_of_run
from timbreflow.reporting.markdown import verdict
from timbreflow.reporting.media import audio_uri, spectrogram_uri
from timbreflow.reporting.published import PUBLISHED

SET_TITLES = {
    "test": ("Unseen timbres", "Pieces and instruments that no model was trained on."),
    "test_seen": ("Seen timbres", "The same unseen pieces, on instruments drawn as in training."),
}
PLAYER_FIGURES = ("lsd", "timbre", "onset_f1")
CARD_FIGURES = ("lsd", "timbre", "pitch", "note_score")
BEATS = (("timbre", "content_copied"), ("pitch", "style_copied"))
"""What a transfer must at least reach: a metric, and the copy that it must be better than."""


def render_report(
    summaries: Mapping[str, Summary],
    evaluation: Evaluation,
    *,
    generalisation: Mapping[str, Mapping[str, float]],
    curves: Mapping[str, pd.DataFrame],
    config: EvaluationConfig,
    digests: Mapping[str, str],
) -> str:
    """The whole page as one string.

    It leads with the first of `summaries`. `generalisation` is system to distance to (unseen - seen) / seen; `digests`
    are metric_digest and test_digest.
    """
    lead = next(iter(summaries))
    rows = summaries[lead].figures
    template = _environment().get_template("report.html")
    page: str = template.render(
        metrics=[m for m in METRICS if m.group != "ratio"],
        sets=[_set_view(name, summary, evaluation) for name, summary in summaries.items()],
        cards=[
            {
                "name": name,
                "label": SYSTEMS[name].label,
                "gap": row.get("timbre_gap_closed"),
                "figures": [(metric, row[metric.name]) for metric in map(BY_NAME.get, CARD_FIGURES) if metric],
            }
            for name, row in rows.items()
            if SYSTEMS[name].competes
        ],
        lead_title=SET_TITLES.get(lead, (lead, ""))[0],
        checks=_checks(rows),
        systems={name: SYSTEMS[name] for name in SYSTEMS if name in rows},
        generalisation=[
            {"label": SYSTEMS[name].label, "values": [row[metric.name] for metric in DISTANCES]}
            for name, row in generalisation.items()
        ],
        distances=DISTANCES,
        comparisons=[view for name, summary in summaries.items() for view in _differences(name, summary)],
        published=PUBLISHED,
        curves=[{"run": run, "charts": charts_of_run(run, table)} for run, table in curves.items()],
        config=config,
        digests=digests,
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


def _set_view(name: str, summary: Summary, evaluation: Evaluation) -> dict[str, Any]:
    rows = summary.figures
    title, lead = SET_TITLES.get(name, (name, ""))
    table = evaluation.table[evaluation.table["set"] == name].set_index(["triple_id", "system"])
    examples = [example for example in evaluation.examples if example.set == name]
    worst = dict.fromkeys(example.worst_of for example in examples if example.worst_of)
    shown = [metric for metric in METRICS if metric.group != "ratio"]
    best = {metric.name: _best(rows, metric) for metric in shown}
    return {
        "title": title,
        "lead": lead,
        "n_triples": summary.n_triples,
        "rows": [
            {
                "name": system,
                "spec": SYSTEMS[system],
                "cells": [
                    {"metric": metric, "interval": row.get(metric.name), "best": best[metric.name] == system}
                    for metric in shown
                ],
                "timing": evaluation.timing[system],
            }
            for system, row in rows.items()
        ],
        "gaps": [(metric, chart) for metric in METRICS if (chart := _gap_chart(rows, metric, title))],
        "plane": scatter_chart(
            [Point(SYSTEMS[system].label, system, row["timbre"], row["note_score"]) for system, row in rows.items()],
            title=f"{title}: timbre distance against note score of every system, with 95 % intervals",
            x_label="timbre distance (left is better)",
            y_label="note score (up is better)",
        ),
        "examples": [_example_view(example, table) for example in examples if not example.worst_of],
        "worst": [
            {
                "label": SYSTEMS[system].label,
                "examples": [_example_view(example, table) for example in examples if example.worst_of == system],
            }
            for system in worst
        ],
    }


def _best(rows: Mapping[str, Figures], metric: Metric) -> str | None:
    """Best among the rows that compete: copies and the ceiling are there to be compared with."""
    values = {
        name: row[metric.name].value for name, row in rows.items() if metric.name in row and SYSTEMS[name].competes
    }
    pick = max if metric.direction == "higher" else min
    return pick(values, key=lambda name: values[name]) if values else None


def _gap_chart(rows: Mapping[str, Figures], metric: Metric, title: str) -> str | None:
    bars = [
        (SYSTEMS[name].label, name, row[metric.name])
        for name, row in rows.items()
        if metric.name in row and metric.name.endswith("_gap_closed") and SYSTEMS[name].competes
    ]
    return bar_chart(bars, title=f"{title}: {metric.label} of every system") if bars else None


def _checks(rows: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """What must hold before any figure is believed, and what a transfer must at least reach."""
    checks = []
    if "oracle" in rows:
        for metric in DISTANCES:
            others = [row[metric.name].value for name, row in rows.items() if name != "oracle"]
            passed = bool(others) and rows["oracle"][metric.name].value < min(others)
            checks.append({"text": f"the oracle is best on {metric.label}", "passed": passed})
    for name, row in rows.items():
        for metric_name, copied in BEATS:
            if SYSTEMS[name].kind == "model" and copied in rows:
                text = f"{SYSTEMS[name].label} beats {SYSTEMS[copied].label} on {BY_NAME[metric_name].label}"
                checks.append({"text": text, "passed": row[metric_name].value < rows[copied][metric_name].value})
    return checks


def _differences(name: str, summary: Summary) -> list[dict[str, Any]]:
    views = []
    for pair, figures in summary.differences.items():
        first, second = (SYSTEMS[system].label for system in pair.split(" - "))
        cells = [
            {"metric": BY_NAME[key], "interval": interval, "verdict": verdict(BY_NAME[key], interval)}
            for key, interval in figures.items()
        ]
        views.append({"set": SET_TITLES.get(name, (name, ""))[0], "first": first, "second": second, "cells": cells})
    return views


def _example_view(example: Example, table: pd.DataFrame) -> dict[str, Any]:
    def player(name: str) -> dict[str, Any]:
        sound, figures = example.sounds[name], ""
        if name in SYSTEMS:
            row: Any = table.loc[(example.triple_id, name)]
            figures = " · ".join(f"{BY_NAME[key].label} {BY_NAME[key].text(row[key])}" for key in PLAYER_FIGURES)
        return {
            "label": SYSTEMS[name].label if name in SYSTEMS else name,
            "role": name,
            "audio": audio_uri(sound, example.sample_rate),
            "picture": spectrogram_uri(sound, example.sample_rate),
            "figures": figures,
        }

    return {
        "id": example.triple_id,
        "description": table.loc[example.triple_id]["description"].iloc[0],
        "inputs": [player(name) for name in example.sounds if name not in SYSTEMS],
        "outputs": [player(name) for name in example.sounds if name in SYSTEMS],
    }
