"""The style of a transfer: features of a recording's most active part, and style tokens that are mixed or fitted.

Fitting needs a model with an exact likelihood. The style encoder gives the first tokens; gradient steps on
-log p(reference | its own notes, tokens) move them, while all weights stay as they are.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Generator, Tensor

from timbreflow.audio.files import resample
from timbreflow.errors import TimbreflowError
from timbreflow.inference.band import BandAbove, BandTable
from timbreflow.inference.expression import rise_seconds
from timbreflow.inference.streaming.recordings import Recording, from_array, open_recording
from timbreflow.inference.synthesis import TransferOptions, encoding
from timbreflow.models.bundle import ModelBundle
from timbreflow.models.glow.model import Glow

SHORTEST_STYLE_SECONDS = 0.5
LONGEST_STYLE_SECONDS = 16.0
MOST_STYLES = 4
STYLES_KEPT = 32
DEFAULT_NOISE = 0.1
"""Noise on the features in the training of a flow whose bundle does not tell it."""
LEARNING_RATE = 0.02
"""Of Adam; the tokens leave a layer normalisation, so their entries are about 1."""
PULL = 1e-3
"""Weight of the mean squared distance to the encoder's tokens, in nats a dimension: a Gaussian prior around them."""
MAX_DISTANCE = 1.0
"""Largest root mean square distance from the encoder's tokens. Farther away no token was decoded in training."""
QUIET, BANDS_TOGETHER = -7.0, 4
"""Log-mels below the first are no part of a timbre; so many bands are one in a coarse spectrum."""
LIKELIHOOD_DRAWS = 4
"""Draws of the noise over which the likelihood before and after is averaged, the same draws for both."""

Styled = ArrayLike | Sequence[np.ndarray]
"""One recording, or a list of up to four arrays."""

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, eq=False)
class Reference:
    """A recording whose timbre is taken.

    Attributes:
        features: [1, M, S] normalised features of its most active part.
        level: RMS of its audible part.
        rise: seconds from 10 to 90 % of its attacks; infinite where none is sharp.
        band: what it has above the models' reach, if anything.
        notes: sentences on what of it is not taken as it is.
    """

    features: Tensor
    level: float
    rise: float = math.inf
    band: BandTable | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class StyleBlend:
    """One to four references and the share of each.

    Attributes:
        references: what is blended.
        weights: of each, with the sum 1.
    """

    references: tuple[Reference, ...]
    weights: tuple[float, ...]

    @property
    def features(self) -> Tensor:
        """[1, M, S]: of each reference as many frames as its weight says, S those of the longest."""
        if len(self.references) == 1:
            return self.references[0].features
        longest = max(reference.features.shape[-1] for reference in self.references)
        parts = []
        for reference, weight in zip(self.references, self.weights, strict=True):
            n_frames = round(weight * longest)
            parts.append(reference.features.repeat(1, 1, -(-longest // reference.features.shape[-1]))[..., :n_frames])
        return torch.cat(parts, -1)

    @property
    def level(self) -> float:
        """Weighted mean of the references' levels."""
        return sum(share * reference.level for share, reference in zip(self.weights, self.references, strict=True))

    @property
    def rise(self) -> float:
        """That of the heaviest reference: a mean with one that has no sharp attacks would have none."""
        return max(zip(self.weights, self.references, strict=True), key=lambda each: each[0])[1].rise

    @property
    def band(self) -> BandAbove | None:
        """What the references have above the models' reach, if any has anything."""
        return BandAbove.blended((reference.band for reference in self.references), self.weights)

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of all references."""
        return tuple(note for reference in self.references for note in reference.notes)


def blend(references: Sequence[Reference], weights: Sequence[float] = ()) -> StyleBlend:
    """References with weights that are brought to the sum 1; none are equal ones.

    Raises:
        TimbreflowError: there are no references or too many, or the weights do not fit.
    """
    if not 1 <= len(references) <= MOST_STYLES:
        raise TimbreflowError(f"{len(references)} styles are given; give one to {MOST_STYLES}.")
    given = list(weights) or [1.0] * len(references)
    if len(given) != len(references):
        raise TimbreflowError(
            f"blend has {len(given)} weights for {len(references)} styles; give one for each, such as 0.7,0.3."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in given) or sum(given) <= 0:
        raise TimbreflowError(f"blend is {', '.join(map(str, given))}; give weights of 0 or more, one above 0.")
    kept = [(reference, weight) for reference, weight in zip(references, given, strict=True) if weight > 0]
    total = sum(given)
    return StyleBlend(tuple(reference for reference, _ in kept), tuple(weight / total for _, weight in kept))


def mean_spectrum(raw: Tensor) -> Tensor:
    """Mean over the frames of raw log-mels [B, M, T], coarse and without its level: [B, M / 4]."""
    mean = F.avg_pool1d(raw.clamp_min(QUIET).mean(-1)[:, None], BANDS_TOGETHER)[:, 0]
    return mean - mean.mean(1, keepdim=True)


def moved(own: Tensor, style: Tensor, strength: float) -> Tensor:
    """Tokens on the line from the content's own, [1, K, D], through the style's: own + strength * (style - own).

    Beyond the style a token is made no longer than the longer of the two: its layer normalisation gives all lengths
    that were ever decoded.
    """
    tokens = own + strength * (style - own)
    if strength <= 1:
        return tokens
    longest = torch.maximum(own.norm(dim=-1, keepdim=True), style.norm(dim=-1, keepdim=True))
    return tokens * (longest / tokens.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_max(1)


class Styles:
    """Styles of one model; those of the last few files are kept, since many pairs may share one.

    Args:
        bundle: of the model, which is on its device.
        features: [B, N] sound at the feature rate to [B, M, T] normalised features.
        frames: of the clips that the model was trained on; a shorter style is repeated until it has as many.
    """

    def __init__(self, bundle: ModelBundle, features: Callable[[np.ndarray], Tensor], *, frames: int) -> None:
        self._bundle = bundle
        self._features = features
        self._frames = frames
        self._read: OrderedDict[Hashable, Reference] = OrderedDict()
        self._fitted: OrderedDict[Hashable, FittedStyle] = OrderedDict()

    def read(self, path: Path) -> Reference:
        """A file as a style.

        Raises:
            TimbreflowError: the file is missing, corrupt, silent or shorter than half a second.
        """

        def read() -> Reference:
            return self.reference(open_recording(path, minimum_seconds=SHORTEST_STYLE_SECONDS))

        state = path.stat() if path.is_file() else None
        key = (str(path.resolve()), state.st_mtime_ns, state.st_size) if state else None
        return _kept(self._read, key, read)

    def given(self, style: Styled, rate: int, weights: Sequence[float] = ()) -> StyleBlend:
        """Arrays at a rate, in Hz, as styles, blended with the weights.

        Raises:
            TimbreflowError: a style cannot be used, there are too many, or the weights do not fit.
        """
        several = isinstance(style, list | tuple) and all(isinstance(one, np.ndarray) and one.ndim for one in style)
        sounds = style if several and isinstance(style, Sequence) else [style]
        names = ["the style"] if len(sounds) == 1 else [f"style {number + 1}" for number in range(len(sounds))]
        return blend(
            [
                self.reference(from_array(sound, rate, name=name, minimum_seconds=SHORTEST_STYLE_SECONDS))
                for sound, name in zip(sounds, names, strict=True)
            ],
            weights,
        )

    def reference(self, style: Recording) -> Reference:
        """A recording as a style."""
        rate = self._bundle.features.sample_rate
        whole = style.excerpt(style.sample_rate, seconds=LONGEST_STYLE_SECONDS)
        audio = resample(whole, style.sample_rate, rate)
        rise, band = rise_seconds(audio, rate), BandTable.of(whole, style.sample_rate)
        return Reference(self._filled(audio), style.level, rise, band, style.notes)

    def features_of(self, recording: Recording) -> Tensor:
        """[1, M, S] normalised features of the most active 16 s of a recording."""
        rate = self._bundle.features.sample_rate
        return self._filled(recording.excerpt(rate, seconds=LONGEST_STYLE_SECONDS))

    def tokens(self, content: Recording | None, style: StyleBlend, options: TransferOptions) -> Tensor | None:
        """[1, K, D] tokens where they are not simply the encoder's of one reference; else None.

        Args:
            content: whose own tokens are asked for where the strength is not 1.
            style: the references.
            options: strength, and the steps of a fit.
        """
        if len(style.references) == 1 and options.strength == 1 and not options.fit_style:
            return None
        tokens = torch.stack(
            [
                weight
                * (self.fitted(one.features, options).tokens if options.fit_style else self._encoded(one.features))
                for one, weight in zip(style.references, style.weights, strict=True)
            ]
        ).sum(0)
        if options.strength == 1 or content is None:
            return tokens
        return moved(self._encoded(self.features_of(content)), tokens, options.strength)

    def weakened(self, content: Recording, style: StyleBlend, options: TransferOptions) -> StyleBlend:
        """The style with the content's own timbre as a further reference, for the share that strength leaves to it."""
        if options.strength >= 1:
            return style
        shares = [options.strength * weight for weight in style.weights]
        own = self.reference(content)
        return StyleBlend((own, *style.references), (1 - options.strength, *shares))

    @torch.inference_mode()
    def _encoded(self, features: Tensor) -> Tensor:
        tokens: Tensor = encoding(self._bundle.model).style_encoder(features)
        return tokens.float()

    @torch.inference_mode()
    def _filled(self, audio: np.ndarray) -> Tensor:
        """Features of a sound [N], repeated until there are as many frames as in a clip of the training."""
        config = self._bundle.features
        # A content is a style too when it is converted, and may be shorter than a frame.
        features = self._features(np.pad(audio, (0, max(0, config.hop_length - len(audio))))[None])
        repeats = -(-self._frames // features.shape[-1])
        # Frames are repeated, not samples: a seam in the sound would be a click, which has a timbre of its own.
        return features.repeat(1, 1, repeats)[..., : max(self._frames, features.shape[-1])]

    def fitted(self, style: Tensor, options: TransferOptions) -> "FittedStyle":
        """Tokens after `options.fit_style` gradient steps.

        Args:
            style: [1, M, S] normalised features.
            options: steps and seed; the model is a flow.
        """

        def fit() -> FittedStyle:
            section = self._bundle.training.get("section", {})
            return fit_style(
                cast(Glow, self._bundle.model),
                style,
                steps=options.fit_style,
                noise=float(section.get("noise", DEFAULT_NOISE)),
                generator=torch.Generator(style.device).manual_seed(options.seed),
            )

        digest = hashlib.sha256(style.cpu().numpy().tobytes()).hexdigest()
        return _kept(self._fitted, (digest, options.fit_style, options.seed), fit)


@dataclass(frozen=True)
class FittedStyle:
    """A style that was fitted to its reference.

    Attributes:
        tokens: [1, K, D] float32; the encoder's own where the steps made the reference no likelier.
        bits_per_dim_before: of the reference under the encoder's tokens, at the noise of the fit.
        bits_per_dim_after: of the reference under `tokens`, over the same draws of the noise.
    """

    tokens: Tensor
    bits_per_dim_before: float
    bits_per_dim_after: float


def fit_style(
    model: Glow,
    style: Tensor,
    *,
    steps: int,
    learning_rate: float = LEARNING_RATE,
    noise: float,
    generator: Generator | None,
) -> FittedStyle:
    """Fit style tokens to a reference by maximum likelihood; the model's weights and mode stay as they are.

    Args:
        model: a trained flow.
        style: [1, M, S] normalised features of the reference, without noise.
        steps: of Adam (Kingma and Ba 2015).
        learning_rate: of Adam.
        noise: standard deviation of the Gaussian noise on the features, as in the model's training: the likelihood of
            a clean rendered sound has no bound.
        generator: source of the noise, on the device of `style`; None takes torch's global one.

    Raises:
        TimbreflowError: steps or noise cannot be used, style is not one clip, or the likelihood became NaN.
    """
    positive = all(math.isfinite(value) and value > 0 for value in (noise, learning_rate))
    if steps < 1 or not positive:
        raise TimbreflowError(
            f"Fitting a style needs at least 1 step and noise and learning rate above 0, not {steps}, {noise} and "
            f"{learning_rate}."
        )
    if style.ndim != 3 or len(style) != 1:
        raise TimbreflowError(
            f"A style is fitted to one clip [1, M, S], not to {list(style.shape)}; give one at a time."
        )
    was_training = model.training
    model.eval()
    try:
        # Callers run under inference mode, whose tensors take no part in gradients: clones do.
        with torch.inference_mode(False), torch.enable_grad():
            fitted = _fit(
                model, style.clone(), steps=steps, learning_rate=learning_rate, noise=noise, generator=generator
            )
    finally:
        model.train(was_training)
    if not (math.isfinite(fitted.bits_per_dim_before) and math.isfinite(fitted.bits_per_dim_after)):
        raise TimbreflowError("The flow gave NaN for the likelihood of the style; use a model that was trained longer.")
    return fitted


def _fit(
    model: Glow, style: Tensor, *, steps: int, learning_rate: float, noise: float, generator: Generator | None
) -> FittedStyle:
    with torch.no_grad():
        code, start = model.content_path(style).code, model.style_encoder(style).float()

    def nll(tokens: Tensor, draw: Tensor) -> Tensor:
        """Nats a dimension under a draw of the noise."""
        conditions = model.condition(code, tokens, frames=style.shape[-1])
        return model.likelihood(style + noise * draw, conditions).nll_per_dim.mean()

    def draw() -> Tensor:
        return torch.randn(style.shape, generator=generator, device=style.device)

    fixed = [draw() for _ in range(LIKELIHOOD_DRAWS)]

    @torch.no_grad()
    def bits_per_dim(tokens: Tensor) -> float:
        return sum(float(nll(tokens, one)) for one in fixed) / LIKELIHOOD_DRAWS / math.log(2)

    before = bits_per_dim(start)
    tokens = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([tokens], lr=learning_rate)
    for step in range(steps):
        # The rate falls to 0, so that the last tokens are not where the noise of the last step threw them.
        optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = nll(tokens, draw()) + PULL * (tokens - start).square().mean()
        # Of the tokens alone: the weights get no gradient.
        (tokens.grad,) = torch.autograd.grad(loss, [tokens])
        optimizer.step()
        with torch.no_grad():
            move = tokens - start
            distance = move.square().mean().sqrt()
            if distance > MAX_DISTANCE:
                tokens.copy_(start + move * (MAX_DISTANCE / distance))
    after = bits_per_dim(tokens.detach())
    return FittedStyle(start, before, before) if after >= before else FittedStyle(tokens.detach(), before, after)


def _kept(shelf: "OrderedDict[Hashable, ValueT]", key: Hashable, make: Callable[[], ValueT]) -> ValueT:
    """What the shelf holds under a key, made where it is missing; the shelf keeps the last `STYLES_KEPT` asked for."""
    if key not in shelf:
        shelf[key] = make()
        if len(shelf) > STYLES_KEPT:
            shelf.popitem(last=False)
    shelf.move_to_end(key)
    return shelf[key]
