"""The one path from features to sound, for transfers and for evaluations: what is measured is what ships.

flat pitch (`expression`) -> features -> normalise -> model -> refiner -> variance scale -> denormalise ->
limit to full scale -> vocoder or Griffin-Lim -> the content's pitch
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from timbreflow.audio.features import FeatureConfig, FeatureExtractor
from timbreflow.audio.inversion import Inverter
from timbreflow.errors import TimbreflowError
from timbreflow.inference.expression import Sound, sharpened, time_map
from timbreflow.inference.transposition import transposed_features
from timbreflow.models.base import Noise, TransferModel
from timbreflow.models.bundle import ModelBundle
from timbreflow.models.glow.model import Glow
from timbreflow.models.refiner import Refiner
from timbreflow.models.vqvae import VQVAE

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
Band = Literal["full", "model"]
"""full: above the models' reach, 8 kHz, what the style has there (see `band`). model: nothing."""
Loudness = Literal["keep", "match"]
Stereo = Literal["mono", "mid", "channels"]
STRONGEST = 1.5
FURTHEST_TRANSPOSITION = 24.0


class TransferArguments(TypedDict, total=False):
    """The fields of `TransferOptions`, as keyword arguments."""

    temperature: float
    seed: int
    mode: TransferMode
    fit_style: int
    expression: Expression
    band: Band
    blend: Sequence[float]
    strength: float
    transpose: float
    mix: float
    loudness: Loudness
    stereo: Stereo


@dataclass(frozen=True)
class TransferOptions:
    """What is asked of a transfer.

    Attributes:
        temperature: spread of a flow's samples, 0 for its most likely one; a VQ-VAE draws none.
        seed: of everything drawn; the same seed gives the same samples.
        mode: "convert" encodes the content under its own style and decodes it under the other; needs a flow.
        fit_style: gradient steps that fit the style tokens to the reference (see `style`); 0 for none. Needs a flow.
        expression: "on" keeps tuning, vibrato, glides and dynamics of the content; "off" leaves them to the model,
            which loses most of them. A conversion re-encodes them and takes no notice.
        band: "full" adds what the style has above 8 kHz, where content and style were recorded at rates that hold it;
            "model" ends there.
        blend: weight of each style, in any unit; empty for equal ones.
        strength: how far from the content's own timbre (0) to the style's (1), or beyond it (at most 1.5).
        transpose: semitones by which the content is played higher; its length stays.
        mix: share of the result; the rest is the content itself, in sync to the sample.
        loudness: "keep" has the content's level, "match" the style's.
        stereo: "mono" gives all channels the same sound; "mid" transfers their mean and leaves what each differs from
            it by as it was; "channels" transfers each channel alone.

    Raises:
        TimbreflowError: a value means nothing.
    """

    temperature: float = DEFAULT_TEMPERATURE
    seed: int = 0
    mode: TransferMode = "sample"
    fit_style: int = 0
    expression: Expression = "on"
    band: Band = "full"
    blend: Sequence[float] = ()
    strength: float = 1.0
    transpose: float = 0.0
    mix: float = 1.0
    loudness: Loudness = "keep"
    stereo: Stereo = "mono"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise TimbreflowError(
                f"temperature is {self.temperature}; give a number that is 0 or more, such as {DEFAULT_TEMPERATURE}."
            )
        for name, value, kind in (
            ("mode", self.mode, TransferMode),
            ("expression", self.expression, Expression),
            ("band", self.band, Band),
            ("loudness", self.loudness, Loudness),
            ("stereo", self.stereo, Stereo),
        ):
            if value not in get_args(kind):
                raise TimbreflowError(f"{name} is {value!r}; choose {' or '.join(get_args(kind))}.")
        for name, number, low, high in (
            ("strength", self.strength, 0.0, STRONGEST),
            ("transpose", self.transpose, -FURTHEST_TRANSPOSITION, FURTHEST_TRANSPOSITION),
            ("mix", self.mix, 0.0, 1.0),
        ):
            if not low <= number <= high:
                raise TimbreflowError(f"{name} is {number}; give a number from {low:g} to {high:g}.")
        if self.fit_style < 0:
            raise TimbreflowError(f"fit_style is {self.fit_style} steps; give 0 for none, or some 30 to 200.")


@dataclass(frozen=True, eq=False)
class DecodeRequest:
    """How contents are to sound; B is 1 for a single one, and the batch size for `joined` ones.

    Attributes:
        style: [B, M, S] normalised features of the references; of a blend, as many frames of each as its weight says,
            and below strength 1 the content's own for the rest.
        temperature: scale of the noise.
        seed: of the phases that Griffin-Lim starts from.
        noise: what the model draws from.
        tokens: [B, K, D] style tokens in place of the encoder's; None encodes `style`.
        own_style: [B, M, S'] features of the contents' own timbres, to convert; None samples. Needs a flow.
        transpose: semitones by which the contents are analysed higher.
        expression: whether the contents' pitch is made flat before the model and restored after it.
        rises: [B] s of the styles' attacks, which the contents' onsets get; empty leaves those of the model.
        continued: [B] whether a content begins in the middle of its recording; empty is never.
    """

    style: Tensor
    temperature: float
    seed: int
    noise: Noise
    tokens: Tensor | None = None
    own_style: Tensor | None = None
    transpose: float = 0.0
    expression: Expression = "on"
    rises: tuple[float, ...] = ()
    continued: tuple[bool, ...] = ()

    def part(self, chosen: list[int]) -> "DecodeRequest":
        """The request of some contents of a batch."""
        return replace(
            self,
            style=self.style[chosen],
            noise=[self.noise[index] for index in chosen] if isinstance(self.noise, list) else self.noise,
            tokens=None if self.tokens is None else self.tokens[chosen],
            own_style=None if self.own_style is None else self.own_style[chosen],
            rises=tuple(self.rises[index] for index in chosen) if self.rises else (),
            continued=tuple(self.continued[index] for index in chosen) if self.continued else (),
        )

    def joins(self, other: "DecodeRequest") -> bool:
        """Whether contents of both can be in one batch: the options are the same, and the styles equally long."""
        mine, theirs = (
            (
                request.temperature,
                request.seed,
                request.expression,
                request.style.shape,
                request.tokens is None,
                None if request.own_style is None else request.own_style.shape,
                request.transpose,
            )
            for request in (self, other)
        )
        return mine == theirs

    @staticmethod
    def joined(requests: "Sequence[DecodeRequest]") -> "DecodeRequest":
        """One request for a batch; each content keeps its own source of noise."""
        first = requests[0]
        noise = [cast(torch.Generator, request.noise) for request in requests]
        tokens = [request.tokens for request in requests if request.tokens is not None]
        own = [request.own_style for request in requests if request.own_style is not None]
        return DecodeRequest(
            torch.cat([request.style for request in requests]),
            first.temperature,
            first.seed,
            noise,
            torch.cat(tokens) if tokens else None,
            torch.cat(own) if own else None,
            first.transpose,
            first.expression,
            tuple(rise for request in requests for rise in request.rises),
            tuple(one for request in requests for one in request.continued or (False,)),
        )


class Synthesizer:
    """A transfer model between sound and sound.

    Args:
        bundle: model, features and statistics; the model is moved to the device.
        invert: makes sound of raw features.
        device: where the model runs.
        refiner: corrects what the model predicts (see `refining.open_refiner`); it is moved to the device too.
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
        refiner: Refiner | None = None,
        variance_scale: float = DEFAULT_VARIANCE_SCALE,
    ) -> None:
        if bundle.normalizer is None or not isinstance(bundle.model, TransferModel):
            raise TimbreflowError(f"A model of kind {bundle.kind} does not transfer timbre; name a vqvae or a glow.")
        self.config = bundle.features
        self.device = torch.device(device)
        self.normalizer = bundle.normalizer
        self.model = cast(TransferModel, bundle.model.to(device).eval())
        self.refiner = None if refiner is None else refiner.to(device).eval()
        self.extract = FeatureExtractor(bundle.features).to(device).eval()
        self.invert = invert
        self.variance_scale = variance_scale if bundle.features.kind == "log_mel" else 1.0

    @torch.inference_mode()
    def features(self, audio: Tensor, *, transpose: float = 0.0) -> Tensor:
        """Sound [B, N] on the model's device -> normalised features [B, M, T], as if so many semitones higher."""
        raw = transposed_features(audio, transpose, self.extract) if transpose else self.extract(audio)
        return self.normalizer.normalize(raw)

    def content_features(self, sounds: Sequence[Sound], *, transpose: float = 0.0) -> Tensor:
        """Sounds [n] of one length in frames -> normalised features [B, M, T] of at least a second."""
        padded = np.zeros((len(sounds), self._frames(sounds[0]) * self.config.hop_length), np.float32)
        for row, sound in zip(padded, sounds, strict=True):
            row[: len(sound)] = sound
        return self.features(torch.from_numpy(padded).to(self.device), transpose=transpose)

    def _frames(self, sound: Sound) -> int:
        hop = self.config.hop_length
        # A lone short sound gets at least a second, in whole frames: encoders step over several frames at once.
        return max(-(-len(sound) // hop), -(-self.config.sample_rate // hop))

    def transfer(self, sounds: Sequence[Sound], request: DecodeRequest) -> list[Sound]:
        """Sounds [n] of contents -> transferred sounds of their lengths, with the contents' pitch in every detail.

        Raises:
            TimbreflowError: as `__call__`.
        """
        rate = self.config.sample_rate
        # Models answer semitones: what a transposition has beyond them goes the way of the content's own tuning.
        above = 100 * (request.transpose - round(request.transpose))
        maps = [time_map(sound, rate, above=above) if request.expression == "on" else None for sound in sounds]
        flat = [sound if way is None else way.flatten(sound) for sound, way in zip(sounds, maps, strict=True)]
        frames = [self._frames(sound) for sound in flat]
        made: dict[int, Sound] = {}
        for length in dict.fromkeys(frames):  # nothing is filled up for another's sake: batches change no result
            chosen = [index for index, own in enumerate(frames) if own == length]
            features = self.content_features([flat[index] for index in chosen], transpose=request.transpose)
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
            TimbreflowError: tokens or an own style, and the model takes none.
        """
        made = self.normalizer.denormalize(self.predict(content, request))
        return to_sound(made, self.config, self.invert, seed=request.seed)

    @torch.inference_mode()
    def predict(self, content: Tensor, request: DecodeRequest) -> Tensor:
        """Normalised features of contents [B, M, T] -> those of the transferred sound.

        Raises:
            TimbreflowError: as `__call__`.
        """
        made = self._decode(content, request)
        scale = 1.0
        # A conversion returns the detail and the variance of its source: nothing to refine or to scale.
        if request.own_style is None:
            scale = self.variance_scale
            if self.refiner is not None:
                made = made + self._change(self.refiner, made, content, request)
        return scale * made

    def _change(self, refiner: Refiner, made: Tensor, content: Tensor, request: DecodeRequest) -> Tensor:
        """What the refiner adds to a prediction, in normalised units; arguments normalised."""
        notes = cast(VQVAE | Glow, self.model).content_path.pianoroll
        given = (content, request.style)
        raw = [self.normalizer.denormalize(x) for x in (made, *given)]
        rolls = (refiner.read(x, notes(normalised)) for x, normalised in zip(raw[1:], given, strict=True))
        continued = torch.tensor(request.continued, device=made.device) if any(request.continued) else None
        return refiner(*raw, *rolls, continued=continued) / self.normalizer.std.to(made)[:, None]

    def _decode(self, content: Tensor, request: DecodeRequest) -> Tensor:
        model, temperature, noise = self.model, request.temperature, request.noise
        if request.tokens is None and request.own_style is None:
            return model.transfer(content, request.style, temperature=temperature, generator=noise)
        if request.own_style is None:
            model, tokens = encoding(model), cast(Tensor, request.tokens)
            return model.transfer_with_tokens(content, tokens, temperature=temperature, generator=noise)
        if not isinstance(model, Glow):
            raise TimbreflowError(f"A {type(model).__name__} does not convert; use a Glow.")
        tokens = model.style_encoder(request.style) if request.tokens is None else request.tokens
        return model.convert_with_tokens(content, model.style_encoder(request.own_style), tokens)


def encoding(model: nn.Module | TransferModel) -> VQVAE | Glow:
    """The model, if it encodes contents as notes and styles as tokens.

    Raises:
        TimbreflowError: it does not.
    """
    if not isinstance(model, VQVAE | Glow):
        raise TimbreflowError(f"A {type(model).__name__} has no style tokens; use a vqvae or a glow.")
    return model


@torch.inference_mode()
def to_sound(features: Tensor, config: FeatureConfig, invert: Inverter, *, seed: int) -> Tensor:
    """Raw features [B, M, T] -> sound [B, T * hop_length].

    Features are limited to those of a full-scale tone, far above all that training clips hold.
    """
    full_scale = config.win_length / 2
    limit = math.log(full_scale) if config.kind == "log_mel" else math.log1p(full_scale)
    return invert(features.clamp(max=limit), seed=seed)
