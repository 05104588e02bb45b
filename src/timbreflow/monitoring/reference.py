"""How the training's sounds are distributed: what served ones are compared with.

A small file holds each figure of some clips. Content and style are drawn alike in training, so one distribution serves
both. `timbreflow monitor-reference` makes it.
"""

import math
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
MEASURED = tuple(name for name in DRIFTING if name != "rank")
"""A flow's rank needs no reference: among styles of the training it is uniform."""


@dataclass(frozen=True)
class Reference:
    """Figures of clips of the training.

    Attributes:
        source: where the clips are from.
        ears: sha256 of the weights that heard the notes.
        figures: name -> [n] values, rising.
    """

    source: str
    ears: str
    figures: dict[str, tuple[float, ...]]

    @property
    def n_clips(self) -> int:
        """How many clips."""
        return len(next(iter(self.figures.values())))


def reference_of(sounds: Iterable[Figures], *, source: str, ears: Ears) -> Reference:
    """The distribution of the figures of clips.

    Raises:
        TimbreflowError: there are too few clips.
    """
    rows = [asdict(figures) for figures in sounds if figures.level_dbfs is not None]
    if len(rows) < FEWEST_CLIPS:
        raise TimbreflowError(f"{source} has {len(rows)} clips; give {FEWEST_CLIPS} or more.")
    figures = {name: tuple(sorted(_rounded(row[name]) for row in rows)) for name in MEASURED}
    return Reference(source, ears.weights, figures)


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
        reference = Reference(str(fields["source"]), str(fields["ears"]), figures)
        sound = all(np.isfinite(row).all() and len(row) == reference.n_clips for row in figures.values())
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound or reference.n_clips < FEWEST_CLIPS:
        raise TimbreflowError(f"{path} is damaged; make it again with `timbreflow monitor-reference`.")
    if reference.ears != ears.weights:
        raise TimbreflowError(
            f"The notes of {path} were heard by other weights than the released VQ-VAE's; make it again with "
            "`timbreflow monitor-reference`."
        )
    return reference


def _rounded(value: float) -> float:
    """To four digits: nothing served is known more exactly, and the file stays small."""
    return float(f"{value:.4g}") if math.isfinite(value) else value
