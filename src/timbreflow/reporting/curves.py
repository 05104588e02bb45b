"""Learning curves of the models, as the training stages left them in results/train_*/…/curves.csv."""

from pathlib import Path

import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from timbreflow.errors import TimbreflowError
from timbreflow.reporting.charts import Curve, line_chart

STEP = "step"
MOST_CHARTS = 3
"""Charts a model: its loss and two of its parts."""


def read_curves(results: Path) -> dict[str, pd.DataFrame]:
    """Curves by run, such as "train_vqvae/base", of every curves.csv below results/train_*.

    Raises:
        TimbreflowError: a file is not CSV or has no column `step`.
    """
    curves = {}
    for path in sorted(results.glob("train_*/**/curves.csv")):
        try:
            table = pd.read_csv(path)
        except (EmptyDataError, ParserError, UnicodeDecodeError) as error:
            raise TimbreflowError(f"{path} is not a table of curves; run its training stage again.") from error
        if STEP not in table:
            raise TimbreflowError(f"{path} has no column {STEP}; run its training stage again.")
        curves[path.parent.relative_to(results).as_posix()] = table
    return curves


def charts_of_run(run: str, table: pd.DataFrame) -> list[tuple[str, str]]:
    """(name, SVG) of a run's most telling columns train_<term> and val_<term>, both in one chart, the loss first."""
    terms = [column.removeprefix("val_") for column in table.columns if column.startswith("val_")]
    terms += [term for column in table.columns if column.startswith("train_") and (term := column[6:]) not in terms]
    # Terms with both a training and a validation curve come first.
    terms.sort(key=lambda term: (term != "loss", -sum(f"{part}_{term}" in table for part in ("train", "val"))))
    charts = []
    for term in terms:
        lines = []
        for part, label in (("train", "training"), ("val", "validation")):
            column = f"{part}_{term}"
            if column in table and table[column].notna().sum() > 1:
                lines.append(Curve(label, part, table[STEP].tolist(), table[column].tolist(), dashed=part == "val"))
        if lines:
            title = f"{run}, {term}: {' and '.join(line.label for line in lines)} against steps"
            charts.append((term, line_chart(lines, title=title, x_label="step")))
    return charts[:MOST_CHARTS]
