"""The page of monitoring: every check, the distributions behind it, and what to do; one file that needs no network."""

from functools import cache
from importlib import resources

import jinja2
import numpy as np

from timbreflow.monitoring.config import DRIFTING
from timbreflow.monitoring.drift import DRIFT_ROLES, LABELS, UNITS, Report, expected_values
from timbreflow.monitoring.reference import Reference
from timbreflow.reporting.charts import Curve, line_chart

STEPS = 200
"""Points of a cumulative curve."""


def render_page(report: Report, reference: Reference, *, made: str) -> str:
    """The page as one string.

    Args:
        report: the checks.
        reference: what they were held against.
        made: when, for the head.
    """
    drifts = {(check.role, check.figure): check for check in report.checks if check.kind == "drift"}
    charts = [
        {
            "role": role,
            "charts": [
                (drifts[role, figure], chart)
                for figure in DRIFTING
                if (chart := _chart(role, figure, report, reference))
            ],
        }
        for role in DRIFT_ROLES
    ]
    table = report.records.table
    models = table["model"].value_counts().to_dict() if len(table) else {}
    days = table.groupby(table["time"].dt.date).size().to_dict() if len(table) else {}
    page: str = (
        _environment()
        .get_template("monitor.html")
        .render(
            style=_look(),
            units=UNITS,
            report=report,
            reference=reference,
            made=made,
            models=models,
            days=days,
            most=max(days.values(), default=1),
            speed=_speed(report),
            charts=[group for group in charts if group["charts"]],
        )
    )
    return page


def _chart(role: str, figure: str, report: Report, reference: Reference) -> str:
    """Both cumulative distributions of a figure; empty where there is too little to draw."""
    found = report.records.column(f"{role}.{figure}").to_numpy()
    if len(found) < 2:
        return ""
    unit = f" in {UNITS[figure]}" if figure in UNITS else ""
    shares = np.linspace(0, 1, STEPS)
    curves = [
        Curve("training", "train", np.quantile(expected_values(figure, reference), shares).tolist(), shares.tolist()),
        Curve("served", "val", np.quantile(found, shares).tolist(), shares.tolist(), dashed=True),
    ]
    title = f"{role}: share of sounds whose {LABELS[figure]} is at most this"
    return line_chart(curves, title=title, x_label=f"{LABELS[figure]}{unit}")


def _speed(report: Report) -> dict[str, float] | None:
    """Median and 95th percentile of the seconds that a second of content took."""
    table = report.records.table
    if not len(table):
        return None
    ratio = (table["seconds"] / table["content.seconds"].clip(lower=0.01)).to_numpy(float)
    return {"median": float(np.median(ratio)), "p95": float(np.quantile(ratio, 0.95))}


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("timbreflow.monitoring", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _look() -> str:
    """The style sheet of the report, without the colours of its systems."""
    text = (resources.files("timbreflow.reporting") / "templates" / "report.html").read_text(encoding="utf-8")
    sheet = text[text.index("<style>") : text.index("</style>")].removeprefix("<style>")
    rendered: str = _environment().from_string(sheet).render(systems={})
    return rendered
