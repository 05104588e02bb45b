"""How well a flow knows a style, beside styles from its training.

Two figures: what the model makes of the reference when it plays its own notes in its own timbre, which foretells how
far a transfer will get (`docs/experiments.md`), and the likelihood of the reference, which monitoring watches.

The distribution over such styles lies beside the weights as `familiarity.json`; `timbreflow familiarity --write` makes
it from clips.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json
from timbreflow.inference.style import LIKELIHOOD_DRAWS, mean_spectrum
from timbreflow.inference.synthesis import DecodeRequest, Synthesizer
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
        echo: mean distance, in nats, between the coarse mean spectra of the reference and of what the model makes of
            the reference's own notes in its timbre.
        echo_rank: share of the training's styles that the model plays less faithfully, 0 to 1.
    """

    bits_per_dim: float
    rank: float
    echo: float
    echo_rank: float

    @property
    def words(self) -> str:
        """The echo's rank for a person."""
        place = f"it plays {self.echo_rank:.0%} of the styles from its training less faithfully"
        if self.echo_rank >= KNOWN:
            return f"The model knows such sounds well: {place}."
        if self.echo_rank >= UNUSUAL:
            return f"The model knows such sounds little: {place}."
        return f"Such a sound is unlike those of the training ({place}); expect a weaker likeness."


@dataclass(frozen=True)
class KnownStyles:
    """The distribution over styles from the training.

    Attributes:
        weights_sha256: of the model that was asked.
        source: where the styles are from.
        n_styles: how many.
        quantiles: [101] bits per dimension, rising, of the shares 0 to 1.
        echoes: [101] the same of `Familiarity.echo`.
    """

    weights_sha256: str
    source: str
    n_styles: int
    quantiles: tuple[float, ...]
    echoes: tuple[float, ...]

    def place(self, bits_per_dim: float, echo: float) -> Familiarity:
        """A style among these."""
        return Familiarity(bits_per_dim, _above(self.quantiles, bits_per_dim), echo, _above(self.echoes, echo))


def _above(quantiles: Sequence[float], value: float) -> float:
    return float(1 - np.interp(value, quantiles, np.linspace(0, 1, len(quantiles)), left=0, right=1))


def style_bits_per_dim(model: Glow, style: Tensor, *, noise: float) -> float:
    """Of a style [1, M, S] under its own notes and tokens, over fixed draws of the noise."""
    with torch.inference_mode():
        conditions = model.condition(model.content_path(style).code, model.style_encoder(style), frames=style.shape[-1])
        generator = torch.Generator().manual_seed(0)
        draws = (torch.randn(style.shape, generator=generator).to(style) for _ in range(LIKELIHOOD_DRAWS))
        bits = [float(model.likelihood(style + noise * draw, conditions).bits_per_dim) for draw in draws]
    return sum(bits) / len(bits)


def style_echo(synthesizer: Synthesizer, style: Tensor) -> float:
    """`Familiarity.echo` of a style's normalised features [1, M, S]."""
    made = synthesizer.predict(style, DecodeRequest(style, 0.0, 0, None))
    played, given = (mean_spectrum(synthesizer.normalizer.denormalize(x)) for x in (made, style))
    return float((played - given).abs().mean())


def style_figures(model: Glow, synthesizer: Synthesizer, style: Tensor, *, noise: float) -> tuple[float, float]:
    """Bits per dimension and echo of a style's normalised features [1, M, S]."""
    return style_bits_per_dim(model, style, noise=noise), style_echo(synthesizer, style)


def known_styles(figures: Iterable[tuple[float, float]], *, weights: str, source: str) -> KnownStyles:
    """The distribution of bits per dimension and echo of styles from the training."""
    table = np.array(list(figures))
    if len(table) < 20:
        raise TimbreflowError(f"{source} has {len(table)} styles; give 20 or more.")
    quantiles, echoes = np.quantile(table, np.linspace(0, 1, N_QUANTILES), axis=0).round(4).T.tolist()
    return KnownStyles(weights, source, len(table), tuple(quantiles), tuple(echoes))


def write_known_styles(folder: Path, known: KnownStyles) -> Path:
    """Write a distribution beside the weights in `folder`."""
    write_json(folder / FILE, {**vars(known), "quantiles": list(known.quantiles), "echoes": list(known.echoes)})
    return folder / FILE


def read_known_styles(folder: Path, *, weights: str) -> KnownStyles | None:
    """The distribution beside the weights in `folder`; None where there is none, or it is of other weights."""
    if not (folder / FILE).is_file():
        return None
    try:
        fields = read_json(folder / FILE)
        if "quantiles" in fields and "echoes" not in fields:  # of a release that did not measure them
            return None
        known = KnownStyles(**{**fields, **{name: tuple(fields[name]) for name in ("quantiles", "echoes")}})
    except (TypeError, KeyError, ValueError) as error:
        raise TimbreflowError(
            f"{folder / FILE} is damaged; make it again with `timbreflow familiarity --model FOLDER --write "
            "data/testsets/seen`."
        ) from error
    return known if known.weights_sha256 == weights else None
