"""Pictures of a stage's results, for the pages of Prefect and MLflow."""

from pathlib import Path

import pandas as pd

MOST_PANELS = 3
"""Of the spectrogram panels of a report."""


def pictures(results: Path) -> list[Path]:
    """PNG files: the learning curves of a training, drawn from curves.csv, and the first panels of a report."""
    panels = sorted((results / "plots").glob("*.png"))[:MOST_PANELS]
    curves = results / "curves.csv"
    return [_curves(curves), *panels] if curves.is_file() else panels


def _curves(table: Path) -> Path:
    """Draw what a training and its validation have in common, else all of the training, a panel each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from timbreflow.files import atomic_file

    curves = pd.read_csv(table)
    terms = [name.removeprefix("train_") for name in map(str, curves) if name.startswith("train_")]
    both = [term for term in terms if f"val_{term}" in curves]
    shown = (both or terms)[:MOST_PANELS]
    figure = Figure(figsize=(4.5 * max(1, len(shown)), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, term in zip(figure.subplots(1, max(1, len(shown)), squeeze=False).ravel(), shown, strict=False):
        for part, label in (("train", "training"), ("val", "validation")):
            if f"{part}_{term}" in curves:
                line = curves[["step", f"{part}_{term}"]].dropna()
                axis.plot(line["step"], line.iloc[:, 1], label=label, marker="." if len(line) == 1 else "")
        axis.set_title(term, loc="left")
        axis.set_xlabel("step")
        axis.legend(frameon=False)
    picture = table.with_suffix(".png")
    with atomic_file(picture) as temporary:
        figure.savefig(temporary, dpi=90)
    return picture
