"""How well a flow knows a style: the likelihood of the reference, beside that of styles from its training.

The distribution over such styles lies beside the weights as `familiarity.json`; `timbreflow familiarity --write` makes
it from clips.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json
from timbreflow.inference.style import LIKELIHOOD_DRAWS
from timbreflow.models.glow.model import Glow

FILE = "familiarity.json"
N_QUANTILES = 101
KNOWN, UNUSUAL = 0.25, 0.05
"""Rank from which a style counts as known, and below which it is unlike all that was trained on."""


@dataclass(frozen=True)
class Familiarity:
    """How well a model knows a style.

    Attributes:
        bits_per_dim: of the reference under its own notes and style tokens, at the noise of the training.
        rank: share of the training's styles that are less likely, 0 to 1.
    """

    bits_per_dim: float
    rank: float

    @property
    def words(self) -> str:
        """The rank for a person."""
        place = f"{self.rank:.0%} of the styles from the training are less likely"
        if self.rank >= KNOWN:
            return f"The model knows such sounds well: {place}."
        if self.rank >= UNUSUAL:
            return f"The model knows such sounds little: only {place}."
        return f"Such a sound is unlike those of the training ({place}); expect a weaker likeness."


@dataclass(frozen=True)
class KnownStyles:
    """The distribution over styles from the training.

    Attributes:
        weights_sha256: of the model that was asked.
        source: where the styles are from.
        n_styles: how many.
        quantiles: [101] bits per dimension, rising, of the shares 0 to 1.
    """

    weights_sha256: str
    source: str
    n_styles: int
    quantiles: tuple[float, ...]

    def place(self, bits_per_dim: float) -> Familiarity:
        """A style among these."""
        shares = np.linspace(0, 1, len(self.quantiles))
        return Familiarity(bits_per_dim, float(1 - np.interp(bits_per_dim, self.quantiles, shares, left=0, right=1)))


def style_bits_per_dim(model: Glow, style: Tensor, *, noise: float) -> float:
    """Of a style [1, M, S] under its own notes and tokens, over fixed draws of the noise."""
    with torch.inference_mode():
        conditions = model.condition(model.content_path(style).code, model.style_encoder(style), frames=style.shape[-1])
        generator = torch.Generator().manual_seed(0)
        draws = (torch.randn(style.shape, generator=generator).to(style) for _ in range(LIKELIHOOD_DRAWS))
        bits = [float(model.likelihood(style + noise * draw, conditions).bits_per_dim) for draw in draws]
    return sum(bits) / len(bits)


def known_styles(bits: Iterable[float], *, weights: str, source: str) -> KnownStyles:
    """The distribution of figures of styles from the training."""
    values = np.fromiter(bits, dtype=np.float64)
    if len(values) < 20:
        raise TimbreflowError(f"{source} has {len(values)} styles; give 20 or more.")
    return KnownStyles(
        weights, source, len(values), tuple(np.quantile(values, np.linspace(0, 1, N_QUANTILES)).round(4).tolist())
    )


def write_known_styles(folder: Path, known: KnownStyles) -> Path:
    """Write a distribution beside the weights in `folder`."""
    write_json(folder / FILE, {**vars(known), "quantiles": list(known.quantiles)})
    return folder / FILE


def read_known_styles(folder: Path, *, weights: str) -> KnownStyles | None:
    """The distribution beside the weights in `folder`; None where there is none, or it is of other weights."""
    if not (folder / FILE).is_file():
        return None
    try:
        fields = read_json(folder / FILE)
        known = KnownStyles(**{**fields, "quantiles": tuple(fields["quantiles"])})
    except (TypeError, KeyError, ValueError) as error:
        raise TimbreflowError(f"{folder / FILE} is damaged; make it again with `timbreflow familiarity`.") from error
    return known if known.weights_sha256 == weights else None
