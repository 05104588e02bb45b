"""The style of a transfer: features of a recording's most active part, and style tokens that are fitted to them.

Fitting needs a model with an exact likelihood. The style encoder gives the first tokens; gradient steps on
-log p(reference | its own notes, tokens) move them, while all weights stay as they are.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Generator, Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.inference.expression import rise_seconds
from timbreflow.inference.streaming.recordings import Recording, open_recording
from timbreflow.inference.synthesis import TransferOptions
from timbreflow.models.bundle import ModelBundle
from timbreflow.models.glow.model import Glow

SHORTEST_STYLE_SECONDS = 0.5
LONGEST_STYLE_SECONDS = 16.0
STYLES_KEPT = 32
DEFAULT_NOISE = 0.1
"""Noise on the features in the training of a flow whose bundle does not tell it."""
LEARNING_RATE = 0.02
"""Of Adam; the tokens leave a layer normalisation, so their entries are about 1."""
PULL = 1e-3
"""Weight of the mean squared distance to the encoder's tokens, in nats a dimension: a Gaussian prior around them."""
MAX_DISTANCE = 1.0
"""Largest root mean square distance from the encoder's tokens. Farther away no token was decoded in training."""
LIKELIHOOD_DRAWS = 4
"""Draws of the noise over which the likelihood before and after is averaged, the same draws for both."""

ValueT = TypeVar("ValueT")


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
        self._read: OrderedDict[Hashable, tuple[HeardStyle, tuple[str, ...]]] = OrderedDict()
        self._fitted: OrderedDict[Hashable, FittedStyle] = OrderedDict()

    def read(self, path: Path) -> tuple["HeardStyle", tuple[str, ...]]:
        """The style of a file, and sentences on what of it is not taken as it is.

        Raises:
            TimbreflowError: the file is missing, corrupt, silent or shorter than half a second.
        """

        def read() -> tuple[HeardStyle, tuple[str, ...]]:
            style = open_recording(path, minimum_seconds=SHORTEST_STYLE_SECONDS)
            return self.heard(style), style.notes

        state = path.stat() if path.is_file() else None
        key = (str(path.resolve()), state.st_mtime_ns, state.st_size) if state else None
        return _kept(self._read, key, read)

    @torch.inference_mode()
    def heard(self, style: Recording) -> "HeardStyle":
        """Features and attacks of the most active 16 s of a recording."""
        config = self._bundle.features
        audio = style.excerpt(config.sample_rate, seconds=LONGEST_STYLE_SECONDS)
        # A content is a style too when it is converted, and may be shorter than a frame.
        features = self._features(np.pad(audio, (0, max(0, config.hop_length - len(audio))))[None])
        repeats = -(-self._frames // features.shape[-1])
        # Frames are repeated, not samples: a seam in the sound would be a click, which has a timbre of its own.
        features = features.repeat(1, 1, repeats)[..., : max(self._frames, features.shape[-1])]
        return HeardStyle(features, rise_seconds(audio, config.sample_rate))

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


@dataclass(frozen=True, eq=False)
class HeardStyle:
    """What is taken of a style's sound.

    Attributes:
        features: [1, M, S] normalised.
        rise: seconds from 10 to 90 % of its attacks; infinite where none is sharp.
    """

    features: Tensor
    rise: float


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
