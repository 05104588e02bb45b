"""How a transfer model is used: what is asked for, and the function that then turns features into features."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Generator, Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.models.base import TransferModel
from timbreflow.models.glow.model import Glow

DEFAULT_TEMPERATURE = 0.25
"""Chosen on validation triples: 0 keeps more notes, .5 is nearer to the timbre and farther in LSD."""

TransferMode = Literal["sample", "convert"]
"""sample: draw from the prior of the content. convert: encode the content under its own style, decode under the new."""

Decoder = Callable[[Tensor, Generator], Tensor]
"""Normalised features [B, M, T] of the content, source of the noise -> normalised features [B, M, T] of the result."""


@dataclass(frozen=True)
class DecodingOptions:
    """What is asked of the model.

    Attributes:
        temperature: of models that sample, others take no notice.
        seed: of everything drawn.
        mode: "convert" needs a flow.
        fit_style: steps of fitting the style to its reference (see `style_fitting`), 0 for none; needs a flow.

    Raises:
        TimbreflowError: a value means nothing.
    """

    temperature: float = DEFAULT_TEMPERATURE
    seed: int = 0
    mode: TransferMode = "sample"
    fit_style: int = 0

    def __post_init__(self) -> None:
        """Refuse what no model could do."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise TimbreflowError(
                f"temperature is {self.temperature}; give a number that is 0 or more, such as {DEFAULT_TEMPERATURE}."
            )
        if self.mode not in get_args(TransferMode):
            raise TimbreflowError(f"mode is {self.mode!r}; choose {' or '.join(get_args(TransferMode))}.")
        if self.fit_style < 0:
            raise TimbreflowError(f"fit_style is {self.fit_style} steps; give 0 for none, or some 30 to 200.")

    def require(self, model: object, kind: str) -> None:
        """Find out before any work whether a model can do this.

        Args:
            model: the network.
            kind: what its bundle calls it.

        Raises:
            TimbreflowError: only a flow can, and this is none.
        """
        wanted = "--fit-style" if self.fit_style else "--mode convert"
        if (self.fit_style or self.mode == "convert") and not isinstance(model, Glow):
            raise TimbreflowError(f"{wanted} needs a flow with an exact likelihood, and this is a {kind}; use a glow.")


def make_decoder(
    model: TransferModel, style: Tensor, *, fitted: Tensor | None, own_style: Tensor | None, temperature: float
) -> Decoder:
    """The function that decodes one content, chunk by chunk.

    Args:
        model: in evaluation mode; a Glow where `fitted` or `own_style` is given.
        style: [1, M, S] normalised features of the reference.
        fitted: [1, K, D] tokens that take the place of the encoder's; None encodes `style`.
        own_style: [1, M, S'] features that tell the content's own timbre, to convert; None samples.
        temperature: of the samples.
    """
    if fitted is None and own_style is None:
        return lambda features, generator: model.transfer(
            features, style.expand(len(features), -1, -1), temperature=temperature, generator=generator
        )
    if not isinstance(model, Glow):
        raise TimbreflowError(
            f"A {type(model).__name__} has no likelihood to fit a style or to convert by; use a Glow."
        )
    glow = model
    tokens = glow.style_encoder(style) if fitted is None else fitted
    if own_style is None:
        return lambda features, generator: glow.transfer_with_tokens(
            features, tokens.expand(len(features), -1, -1), temperature=temperature, generator=generator
        )
    own = glow.style_encoder(own_style)

    def convert(features: Tensor, generator: Generator) -> Tensor:
        del generator
        batch = len(features)
        return glow.convert_with_tokens(features, own.expand(batch, -1, -1), tokens.expand(batch, -1, -1))

    return convert
