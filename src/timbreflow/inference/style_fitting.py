"""Fit the style at test time: the tokens under which the flow finds the reference recording most likely.

Only a model with an exact likelihood can do this. The style encoder gives the first guess; the tokens then follow the
gradient of -log p(reference | its own notes, tokens) while all weights stay as they are.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.models.glow.model import Glow

LEARNING_RATE = 0.02
"""Of Adam; the tokens leave a layer normalisation, so their entries are about 1."""
PULL = 1e-3
"""Weight of the mean squared distance to the encoder's tokens, in nats a dimension: the pull of a prior around them."""
LARGEST_MOVE = 1.0
"""Largest root mean square distance from the encoder's tokens. Farther out no token was ever decoded in training."""
JUDGES = 4
"""Draws of the noise over which the likelihood before and after is averaged, the same draws for both."""


@dataclass(frozen=True)
class FittedStyle:
    """A style that was fitted to its reference.

    Attributes:
        tokens: [1, K, D] float32; the encoder's own where no step made the reference likelier.
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
    if (
        steps < 1
        or not (math.isfinite(noise) and noise > 0)
        or not (math.isfinite(learning_rate) and learning_rate > 0)
    ):
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
            return _fit(
                model, style.clone(), steps=steps, learning_rate=learning_rate, noise=noise, generator=generator
            )
    finally:
        model.train(was_training)


def _fit(
    model: Glow, style: Tensor, *, steps: int, learning_rate: float, noise: float, generator: Generator | None
) -> FittedStyle:
    frames = style.shape[-1]
    with torch.no_grad():
        code, start = model.content_path(style).code, model.style_encoder(style).float()

    def nll(tokens: Tensor, draw: Tensor) -> Tensor:
        """Nats a dimension under a draw of the noise."""
        conditions = model.condition(code, tokens, frames=frames)
        return model.likelihood(style + noise * draw, conditions).nll_per_dim.mean()

    def draw() -> Tensor:
        return torch.randn(style.shape, generator=generator, device=style.device)

    judges = [draw() for _ in range(JUDGES)]

    @torch.no_grad()
    def judged(tokens: Tensor) -> float:
        return sum(float(nll(tokens, judge)) for judge in judges) / JUDGES

    before = judged(start)
    tokens = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([tokens], lr=learning_rate)
    for step in range(steps):
        # The rate falls to 0, so that the last tokens are not where the noise of the last step threw them.
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = nll(tokens, draw()) + PULL * (tokens - start).square().mean()
        # Only the tokens get a gradient: the weights are nobody's to change here.
        (tokens.grad,) = torch.autograd.grad(loss, [tokens])
        optimizer.step()
        with torch.no_grad():
            move = tokens - start
            distance = move.square().mean().sqrt()
            if distance > LARGEST_MOVE:
                tokens.copy_(start + move * (LARGEST_MOVE / distance))
    fitted = tokens.detach()
    after = judged(fitted)
    if not (math.isfinite(before) and math.isfinite(after)):
        raise TimbreflowError("The flow gave NaN for the likelihood of the style; use a model that was trained longer.")
    if after >= before:
        fitted, after = start, before
    return FittedStyle(fitted, before / math.log(2), after / math.log(2))
