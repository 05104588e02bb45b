"""How the training's sounds are distributed: what served ones are compared with.

A small file holds each figure of some clips. Content and style are drawn alike in training, so one distribution serves
both. `timbreflow monitor-reference` makes it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json
from timbreflow.monitoring.config import DRIFTING
from timbreflow.monitoring.figures import Ears, Figures

FEWEST_CLIPS = 40
MOST_VALUES = 160
"""Of a figure, so that the file has a few kB."""
MEASURED = tuple(name for name in DRIFTING if name != "rank")
"""A flow's rank needs no reference: among styles of the training it is uniform."""


@dataclass(frozen=True)
class Reference:
    """Figures of clips of the training.

    Attributes:
        source: where the clips are from.
        ears: sha256 of the weights that heard the notes.
        n_clips: how many.
        figures: name -> [Q] values of clips at evenly spaced ranks, rising. A test that takes them for all clips is
            the more cautious for it.
    """

    source: str
    ears: str
    n_clips: int
    figures: dict[str, tuple[float, ...]]


def reference_of(sounds: Iterable[Figures], *, source: str, ears: Ears) -> Reference:
    """The distribution of the figures of clips.

    Raises:
        TimbreflowError: there are too few clips.
    """
    rows = [asdict(figures) for figures in sounds if figures.level_dbfs is not None]
    if len(rows) < FEWEST_CLIPS:
        raise TimbreflowError(f"{source} has {len(rows)} clips; give {FEWEST_CLIPS} or more.")
    shares = np.linspace(0, 1, min(len(rows), MOST_VALUES))
    ranked = {name: np.quantile([row[name] for row in rows], shares, method="nearest") for name in MEASURED}
    figures = {name: tuple(float(f"{value:.4g}") for value in values) for name, values in ranked.items()}
    return Reference(source, ears.weights, len(rows), figures)


def write_reference(path: Path, reference: Reference) -> None:
    """Write it as JSON."""
    write_json(path, {**asdict(reference), "figures": {name: list(row) for name, row in reference.figures.items()}})


def read_reference(path: Path, ears: Ears) -> Reference:
    """Read what `write_reference` wrote.

    Raises:
        TimbreflowError: the file is missing or damaged, or other weights heard its notes.
    """
    fields: Any = read_json(path)
    try:
        figures = {name: tuple(map(float, fields["figures"][name])) for name in MEASURED}
        reference = Reference(str(fields["source"]), str(fields["ears"]), int(fields["n_clips"]), figures)
        damaged = any(len(row) < FEWEST_CLIPS or not np.isfinite(row).all() for row in figures.values())
    except (TypeError, KeyError, ValueError):
        damaged = True
    if damaged:
        raise TimbreflowError(f"{path} is damaged; make it again with `timbreflow monitor-reference`.")
    if reference.ears != ears.weights:
        raise TimbreflowError(
            f"The notes of {path} were heard by other weights than the released VQ-VAE's; make it again with "
            "`timbreflow monitor-reference`."
        )
    return reference
