"""How a transfer model is used: what is asked for, and how features then become features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.models.base import TransferModel
from timbreflow.models.glow.model import Glow

DEFAULT_TEMPERATURE = 0.25
"""Chosen on validation triples: 0 keeps more notes, .5 is nearer to the timbre and farther in LSD."""
DEFAULT_CONTRAST = 1.05
"""What normalised log-mels that a model made are multiplied by, chosen on validation triples: .98 of the LSD and .96 of
the MFCC distance there, and no fewer notes, for both models; on instruments never heard about level."""

TransferMode = Literal["sample", "convert"]
"""sample: draw from the prior of the content. convert: encode the content under its own style, decode under the new."""


@dataclass(frozen=True, eq=False)
class Voice:
    """What one content is to sound like.

    Attributes:
        style: [1, M, S] normalised features of the reference.
        temperature: of the samples.
        seed: of all that is drawn.
        noise: drawn from for each of the content's chunks in turn.
        fitted: [1, K, D] tokens that take the place of the encoder's; None encodes `style`. Needs a flow.
        own_style: [1, M, S'] features that tell the content's own timbre, to convert; None samples. Needs a flow.
    """

    style: Tensor
    temperature: float
    seed: int
    noise: Generator
    fitted: Tensor | None = None
    own_style: Tensor | None = None

    def joins(self, other: "Voice") -> bool:
        """Whether chunks of both can be in one batch: they are asked for alike, and their styles are of one length."""
        mine, theirs = (
            (
                voice.temperature,
                voice.seed,
                voice.style.shape,
                voice.fitted is None,
                None if voice.own_style is None else voice.own_style.shape,
            )
            for voice in (self, other)
        )
        return mine == theirs


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


@torch.inference_mode()
def decode(model: TransferModel, features: Tensor, voices: Sequence[Voice]) -> Tensor:
    """Decode a batch of contents, each in its voice.

    Args:
        model: in evaluation mode; a Glow where voices are fitted or have a style of their own.
        features: [B, M, T] normalised features of the contents.
        voices: B that can be in one batch.

    Returns:
        [B, M, T] normalised features.
    """
    first = voices[0]
    noise = [voice.noise for voice in voices]
    style = torch.cat([voice.style for voice in voices])
    if first.fitted is None and first.own_style is None:
        return model.transfer(features, style, temperature=first.temperature, generator=noise)
    if not isinstance(model, Glow):
        raise TimbreflowError(
            f"A {type(model).__name__} has no likelihood to fit a style or to convert by; use a Glow."
        )
    if first.fitted is None:
        tokens = model.style_encoder(style)
    else:
        tokens = torch.cat([voice.fitted for voice in voices if voice.fitted is not None])
    if first.own_style is None:
        return model.transfer_with_tokens(features, tokens, temperature=first.temperature, generator=noise)
    own = torch.cat([voice.own_style for voice in voices if voice.own_style is not None])
    return model.convert_with_tokens(features, model.style_encoder(own), tokens)
