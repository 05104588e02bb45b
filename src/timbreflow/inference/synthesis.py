"""The one path from features to sound, for transfers and for evaluations: what is measured is what ships.

flat pitch (`expression`) -> features -> normalise -> model -> variance scale -> denormalise -> limit to full scale ->
vocoder or Griffin-Lim -> the content's pitch
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from timbreflow.audio.features import FeatureConfig, FeatureExtractor
from timbreflow.audio.inversion import Inverter
from timbreflow.errors import TimbreflowError
from timbreflow.inference.expression import Sound, sharpened, time_map
from timbreflow.models.base import Noise, TransferModel
from timbreflow.models.bundle import ModelBundle
from timbreflow.models.glow.model import Glow

DEFAULT_TEMPERATURE = 0.25
"""Chosen on validation triples: 0 keeps more notes, .5 is nearer to the timbre and farther in LSD."""
DEFAULT_VARIANCE_SCALE = 1.05
"""Factor on the normalised log-mels that a model made, chosen on validation triples: .98 of the LSD and .96 of the MFCC
distance there, and no fewer notes, for both models; about equal on instruments of no training. Models that minimise an
error vary too little (Toda and Tokuda 2007: "global variance")."""

TransferMode = Literal["sample", "convert"]
"""sample: draw from the prior of the content. convert: encode the content under its own style, decode under the new."""

Expression = Literal["on", "off"]
"""on: tuning, vibrato, glides and dynamics are the content's (see `expression`). off: what the model makes of them."""


@dataclass(frozen=True)
class TransferOptions:
    """What is asked of the model.

    Attributes:
        temperature: scale of the noise of models that sample.
        seed: of everything drawn.
        mode: "convert" needs a flow.
        fit_style: gradient steps that fit the style tokens to the reference (see `style`); 0 for none. Needs a flow.
        expression: whether the content's own is kept.

    Raises:
        TimbreflowError: a value means nothing.
    """

    temperature: float = DEFAULT_TEMPERATURE
    seed: int = 0
    mode: TransferMode = "sample"
    fit_style: int = 0
    expression: Expression = "on"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise TimbreflowError(
                f"temperature is {self.temperature}; give a number that is 0 or more, such as {DEFAULT_TEMPERATURE}."
            )
        if self.mode not in get_args(TransferMode):
            raise TimbreflowError(f"mode is {self.mode!r}; choose {' or '.join(get_args(TransferMode))}.")
        if self.expression not in get_args(Expression):
            raise TimbreflowError(f"expression is {self.expression!r}; choose {' or '.join(get_args(Expression))}.")
        if self.fit_style < 0:
            raise TimbreflowError(f"fit_style is {self.fit_style} steps; give 0 for none, or some 30 to 200.")


@dataclass(frozen=True, eq=False)
class DecodeRequest:
    """How contents are to sound; B is 1 for a single one, and the batch size for `joined` ones.

    Attributes:
        style: [B, M, S] normalised features of the references.
        temperature: scale of the noise.
        seed: of the phases that Griffin-Lim starts from.
        noise: what the model draws from.
        fitted: [B, K, D] style tokens in place of the encoder's; None encodes `style`. Needs a flow.
        own_style: [B, M, S'] features of the contents' own timbres, to convert; None samples. Needs a flow.
        expression: whether the contents' pitch is made flat before the model and restored after it.
        rises: [B] s of the styles' attacks, which the contents' onsets get; empty leaves those of the model.
    """

    style: Tensor
    temperature: float
    seed: int
    noise: Noise
    fitted: Tensor | None = None
    own_style: Tensor | None = None
    expression: Expression = "on"
    rises: tuple[float, ...] = ()

    def part(self, chosen: list[int]) -> "DecodeRequest":
        """The request of some contents of a batch."""
        return replace(
            self,
            style=self.style[chosen],
            noise=[self.noise[index] for index in chosen] if isinstance(self.noise, list) else self.noise,
            fitted=None if self.fitted is None else self.fitted[chosen],
            own_style=None if self.own_style is None else self.own_style[chosen],
            rises=tuple(self.rises[index] for index in chosen) if self.rises else (),
        )

    def joins(self, other: "DecodeRequest") -> bool:
        """Whether contents of both can be in one batch: the options are the same, and the styles equally long."""
        mine, theirs = (
            (
                request.temperature,
                request.seed,
                request.expression,
                request.style.shape,
                request.fitted is None,
                None if request.own_style is None else request.own_style.shape,
            )
            for request in (self, other)
        )
        return mine == theirs

    @staticmethod
    def joined(requests: "Sequence[DecodeRequest]") -> "DecodeRequest":
        """One request for a batch; each content keeps its own source of noise."""
        first = requests[0]
        noise = [cast(torch.Generator, request.noise) for request in requests]
        fitted = [request.fitted for request in requests if request.fitted is not None]
        own = [request.own_style for request in requests if request.own_style is not None]
        return DecodeRequest(
            torch.cat([request.style for request in requests]),
            first.temperature,
            first.seed,
            noise,
            torch.cat(fitted) if fitted else None,
            torch.cat(own) if own else None,
            first.expression,
            tuple(rise for request in requests for rise in request.rises),
        )


class Synthesizer:
    """A transfer model between sound and sound.

    Args:
        bundle: model, features and statistics; the model is moved to the device.
        invert: makes sound of raw features.
        device: where the model runs.
        variance_scale: factor on normalised log-mels that the model made; other features stay.

    Raises:
        TimbreflowError: the bundle's model is none that transfers.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        invert: Inverter,
        *,
        device: str | torch.device = "cpu",
        variance_scale: float = DEFAULT_VARIANCE_SCALE,
    ) -> None:
        if bundle.normalizer is None or not isinstance(bundle.model, TransferModel):
            raise TimbreflowError(f"A model of kind {bundle.kind} does not transfer timbre; name a vqvae or a glow.")
        self.config = bundle.features
        self.normalizer = bundle.normalizer
        self.model = cast(TransferModel, bundle.model.to(device).eval())
        self.extract = FeatureExtractor(bundle.features).to(device).eval()
        self.invert = invert
        self.variance_scale = variance_scale if bundle.features.kind == "log_mel" else 1.0

    @torch.inference_mode()
    def features(self, audio: Tensor) -> Tensor:
        """Sound [B, N] on the model's device -> normalised features [B, M, T]."""
        return self.normalizer.normalize(self.extract(audio))

    def transfer(self, sounds: Sequence[Sound], request: DecodeRequest) -> list[Sound]:
        """Sounds [n] of contents -> transferred sounds of their lengths, with the contents' pitch in every detail.

        Raises:
            TimbreflowError: as `__call__`.
        """
        rate, hop = self.config.sample_rate, self.config.hop_length
        maps = [time_map(sound, rate) if request.expression == "on" else None for sound in sounds]
        flat = [sound if way is None else way.flatten(sound) for sound, way in zip(sounds, maps, strict=True)]
        # A lone short sound gets at least a second, in whole frames: encoders step over several frames at once.
        frames = [max(-(-len(sound) // hop), -(-rate // hop)) for sound in flat]
        made: dict[int, Sound] = {}
        for length in dict.fromkeys(frames):  # nothing is filled up for another's sake: batches change no result
            chosen = [index for index, own in enumerate(frames) if own == length]
            padded = np.stack([np.pad(flat[index], (0, length * hop - len(flat[index]))) for index in chosen])
            device = request.style.device
            features = self.features(torch.from_numpy(np.ascontiguousarray(padded, np.float32)).to(device))
            sound = self(features, request.part(chosen)).float().cpu().numpy()
            made |= {index: sound[row, : len(flat[index])] for row, index in enumerate(chosen)}
        restored = [made[index] if way is None else way.restore(made[index]) for index, way in enumerate(maps)]
        if request.expression == "off" or not request.rises:
            return restored
        return [sharpened(*each, rate) for each in zip(restored, sounds, request.rises, strict=True)]

    @torch.inference_mode()
    def __call__(self, content: Tensor, request: DecodeRequest) -> Tensor:
        """Normalised features of contents [B, M, T] -> transferred sound [B, T * hop_length].

        Raises:
            TimbreflowError: fitted tokens or an own style, and the model is no flow.
        """
        made = self._decode(content, request)
        # A conversion returns the variance of its source: nothing to scale.
        scale = self.variance_scale if request.own_style is None else 1.0
        return to_sound(self.normalizer.denormalize(scale * made), self.config, self.invert, seed=request.seed)

    def _decode(self, content: Tensor, request: DecodeRequest) -> Tensor:
        model, temperature, noise = self.model, request.temperature, request.noise
        if request.fitted is None and request.own_style is None:
            return model.transfer(content, request.style, temperature=temperature, generator=noise)
        if not isinstance(model, Glow):
            raise TimbreflowError(f"A {type(model).__name__} can neither fit a style nor convert; use a Glow.")
        tokens = model.style_encoder(request.style) if request.fitted is None else request.fitted
        if request.own_style is None:
            return model.transfer_with_tokens(content, tokens, temperature=temperature, generator=noise)
        return model.convert_with_tokens(content, model.style_encoder(request.own_style), tokens)


@torch.inference_mode()
def to_sound(features: Tensor, config: FeatureConfig, invert: Inverter, *, seed: int) -> Tensor:
    """Raw features [B, M, T] -> sound [B, T * hop_length].

    Features are limited to those of a full-scale tone, far above all that training clips hold.
    """
    full_scale = config.win_length / 2
    limit = math.log(full_scale) if config.kind == "log_mel" else math.log1p(full_scale)
    return invert(features.clamp(max=limit), seed=seed)
