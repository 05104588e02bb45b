"""Checks of a transfer model before its release: pure functions, models and arrays in, figures out.

Three questions: does the style, and only the style, decide the timbre; is the content code, or the flow's z, free of
timbre; is the flow invertible, with the right determinant. The tests of the released weights have the limits.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from benchmarks.chroma import chroma_similarity
from timbreflow.errors import TimbreflowError
from timbreflow.metrics.lsd import lsd
from timbreflow.metrics.timbre import cosine_distance, mfcc_statistics
from timbreflow.models.glow.model import Glow

_RIDGES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e6)
"""The last one leaves nothing but the commonest label: no probe is worse than that for having many dimensions."""
_FOLDS = 5


@dataclass(frozen=True)
class StyleSwap:
    """What happened when each clip of a batch got another one's style.

    Attributes:
        moved: share of clips whose timbre came nearer to the new style.
        distance_before: mean MFCC distance to the new style, under the old style.
        distance_after: the same under the new style.
        notes_kept: mean chroma similarity of a clip under both styles.
        notes_of_others: the same with another clip's notes, which is what chance gives.
    """

    moved: float
    distance_before: float
    distance_after: float
    notes_kept: float
    notes_of_others: float


@dataclass(frozen=True)
class Closeness:
    """How near sounds are to their targets, as means over clips.

    Attributes:
        lsd: log-spectral distance in dB, lower is better.
        timbre: MFCC distance, lower is better.
        notes: chroma similarity, higher is better.
    """

    lsd: float
    timbre: float
    notes: float


def style_swap(before: ArrayLike, after: ArrayLike, new_styles: ArrayLike) -> StyleSwap:
    """Compare transfers of a batch under its own styles with those under other styles.

    Args:
        before: [B, N] at 16 kHz, content i under style i.
        after: [B, N], content i under another style.
        new_styles: [B, N'], the styles of `after`.

    Raises:
        TimbreflowError: fewer than two clips.
    """
    old, new, styles = (list(np.asarray(batch, dtype=np.float32)) for batch in (before, after, new_styles))
    if len(old) < 2:
        raise TimbreflowError("A swap of styles needs at least two clips; give a larger batch.")
    timbres = [[mfcc_statistics(sound) for sound in batch] for batch in (old, new, styles)]
    away = np.array([cosine_distance(a, b) for a, b in zip(timbres[0], timbres[2], strict=True)])
    near = np.array([cosine_distance(a, b) for a, b in zip(timbres[1], timbres[2], strict=True)])
    kept = [chroma_similarity(a, b) for a, b in zip(new, old, strict=True)]
    others = [chroma_similarity(a, b) for a, b in zip(new, [*old[1:], old[0]], strict=True)]
    return StyleSwap(
        float((near < away).mean()),
        float(away.mean()),
        float(near.mean()),
        float(np.mean(kept)),
        float(np.mean(others)),
    )


def closeness(sounds: ArrayLike, targets: ArrayLike) -> Closeness:
    """Mean closeness of sounds [B, N] to targets [B, N] at 16 kHz."""
    pairs = list(zip(np.asarray(sounds, np.float32), np.asarray(targets, np.float32), strict=True))
    timbres = [cosine_distance(mfcc_statistics(sound), mfcc_statistics(target)) for sound, target in pairs]
    return Closeness(
        float(np.mean([lsd(sound, target) for sound, target in pairs])),
        float(np.mean(timbres)),
        float(np.mean([chroma_similarity(sound, target) for sound, target in pairs])),
    )


def pooled(features: Tensor) -> NDArray[np.float64]:
    """Mean and deviation over time of [B, C, T]: [B, 2 C], what a probe of a whole clip sees."""
    values = features.detach().double().cpu()
    return torch.cat([values.mean(-1), values.std(-1, correction=0)], dim=1).numpy()


def probe_accuracy(features: ArrayLike, labels: ArrayLike, groups: ArrayLike, *, seed: int = 0) -> float:
    """Accuracy of a linear probe for the label of unseen clips.

    Ridge regression onto one-hot labels, its strength chosen on folds of the training part (so that a probe of many
    dimensions is as fair as one of few), cross-validated in five folds that never part a group.

    Args:
        features: [n, d].
        labels: [n] integers or strings.
        groups: [n]; clips of one group, such as those of one piece, are never both learned from and tested on.
        seed: of the folds.

    Returns:
        Share of clips whose label was predicted.

    Raises:
        TimbreflowError: fewer than five groups, or the lengths differ.
    """
    x = np.asarray(features, dtype=np.float64)
    classes, y = np.unique(np.asarray(labels), return_inverse=True)
    if x.ndim != 2 or not len(x) == len(y) == len(np.asarray(groups)):
        raise TimbreflowError("A probe needs features [n, d] with a label and a group for each; give equal lengths.")
    folds = _folds(np.asarray(groups), np.random.default_rng(seed))
    right = 0
    for fold in range(_FOLDS):
        train, test = folds != fold, folds == fold
        inner = folds[train]
        scores = []
        for ridge in _RIDGES:
            correct = [
                _predicted(
                    x[train][inner != held], y[train][inner != held], x[train][inner == held], len(classes), ridge
                )
                == y[train][inner == held]
                for held in np.unique(inner)
            ]
            scores.append(np.concatenate(correct).mean())
        best = _RIDGES[int(np.argmax(scores))]
        right += int((_predicted(x[train], y[train], x[test], len(classes), best) == y[test]).sum())
    return right / len(y)


@torch.no_grad()
def inverse_error(glow: Glow, x: Tensor, content: Tensor, style: Tensor) -> float:
    """Relative error of forward and back: |inverse(forward(x)) - x| / |x|, all in float32.

    Args:
        glow: in evaluation mode.
        x: [B, M, T] normalised, T a multiple of `glow.flow.multiple`.
        content: [B, M, T] normalised.
        style: [B, M, S] normalised.
    """
    conditions = glow.condition(glow.content_path(content).code, glow.style_encoder(style), frames=x.shape[-1])
    z, _ = glow.flow(x, conditions.contexts)
    return float((glow.flow.inverse(z, conditions.contexts) - x).norm() / x.norm())


def log_det_error(glow: Glow, x: Tensor, content: Tensor, style: Tensor) -> float:
    """Difference of the flow's log-determinant from that of autograd's Jacobian, in nats a dimension, in float64.

    Args:
        glow: in evaluation mode.
        x: [1, M, t] normalised; t = `glow.flow.multiple` is enough, the Jacobian has (M t)^2 entries.
        content: [1, M, t] normalised.
        style: [1, M, S] normalised.
    """
    with torch.no_grad():
        # The quantiser works in float32 whatever it is given, so the code is made before all becomes float64.
        code, tokens = glow.content_path(content).code.double(), glow.style_encoder(style).double()
        exact = copy.deepcopy(glow).double()
        conditions = exact.condition(code, tokens, frames=x.shape[-1])
        exact_x = x.double()
        _, log_det = exact.flow(exact_x, conditions.contexts)

    def flat(values: Tensor) -> Tensor:
        z, _ = exact.flow(values.view_as(exact_x), conditions.contexts)
        return torch.cat([latent.flatten() for latent in z])

    jacobian: Tensor = torch.autograd.functional.jacobian(flat, exact_x.flatten(), vectorize=True)
    true = torch.linalg.slogdet(jacobian).logabsdet
    return float((log_det.squeeze() - true).abs() / x.numel())


@torch.no_grad()
def style_cost(
    glow: Glow,
    target: Tensor,
    content: Tensor,
    style: Tensor,
    wrong_style: Tensor,
    *,
    noise: float,
    generator: Generator | None,
) -> NDArray[np.float64]:
    """Bits per dimension that each target costs more under a wrong style than under its own.

    Args:
        glow: in evaluation mode.
        target: [B, M, T] normalised.
        content: [B, M, T] normalised.
        style: [B, M, S] normalised, of the target's timbre.
        wrong_style: [B, M, S] normalised, of another.
        noise: deviation of the noise on the target, as in training.
        generator: source of the noise.

    Returns:
        [B].
    """
    noisy = target + noise * torch.randn(target.shape, generator=generator, device=target.device)
    right, wrong = (glow(noisy, content, given).likelihood.bits_per_dim for given in (style, wrong_style))
    return (wrong - right).double().cpu().numpy()


@torch.no_grad()
def pooled_latents(
    glow: Glow, target: Tensor, content: Tensor, style: Tensor, *, noise: float, generator: Generator | None
) -> NDArray[np.float64]:
    """The flow's z of targets under their conditions, pooled over time: [B, D]; arguments as in `style_cost`."""
    noisy = target + noise * torch.randn(target.shape, generator=generator, device=target.device)
    return np.concatenate([pooled(latent) for latent in glow(noisy, content, style).likelihood.z], axis=1)


def _folds(groups: NDArray[np.generic], rng: np.random.Generator) -> NDArray[np.int64]:
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < _FOLDS:
        raise TimbreflowError(f"A probe needs clips of at least {_FOLDS} groups, not {len(names)}; give more clips.")
    return np.asarray((rng.permutation(len(names)) % _FOLDS)[members], dtype=np.int64)


def _predicted(
    x: NDArray[np.float64], y: NDArray[np.intp], unseen: NDArray[np.float64], n_classes: int, ridge: float
) -> NDArray[np.intp]:
    """Labels of unseen clips by ridge regression, in its dual form: there are fewer clips than dimensions."""
    mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-8)
    known, new = (x - mean) / deviation, (unseen - mean) / deviation
    wanted = np.eye(n_classes)[y]
    offset = wanted.mean(axis=0)
    weights = np.linalg.solve(known @ known.T + ridge * np.eye(len(known)), wanted - offset)
    return np.asarray((new @ known.T @ weights + offset).argmax(axis=1), dtype=np.intp)
