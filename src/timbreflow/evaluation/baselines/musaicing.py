"""Musaicing: the content's spectrogram put together from frames of the style, without anything learned.

Conventions:
    V [F, T] is the content's magnitude spectrogram, W [F, S] the style's; frames are those of the pipeline. Only the
    activations H [S, T] are optimised, so the output consists of sounds of the style alone.

In each of L iterations, with l from 1 to L (equations 3 to 7 of the paper):
    1. Repetition: what is not the greatest within `repetition` frames on either side of its row is multiplied by
       1 - l / L, so that one frame of the style is not played over and over.
    2. Polyphony: what is not among the `polyphony` greatest of its column is multiplied by the same factor.
    3. Continuity: H is filtered along its diagonals over `continuity` frames on either side, so that frames follow one
       another as they did in the style.
    4. One multiplicative update of H under the Kullback-Leibler divergence (Lee and Seung 2001).

The complex frames of the style are then added up with the weights H, inverted, and brought to the content's loudness.

Deviations from the reference:
    * The style is taken at its own pitch: the paper transposes the source to all semitones where pitches must be met,
      Cífka et al. (2021) do not report to. Notes that the style never plays come out as the nearest mixture of others.
    * Iterations are not given by the paper. At 50, content made of its own frames comes back within 2 dB of LSD; at
      100 within 1 dB, with the same distances to the target, at twice the cost.

Reference: Driedger, Prätzlich, Müller, *Let it Bee - Towards NMF-inspired Audio Mosaicing*, ISMIR 2015.
"""

from typing import Any

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d
from torch import Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.loudness import as_loud_as
from timbreflow.evaluation.system import Role, SystemContext

_SMALLEST = np.float32(1e-6)
"""Keeps quotients finite: 120 dB below a full-scale sample, less than one bin of digital noise."""


class Musaicing:
    """The row `musaicing`.

    Args:
        context: frames of the pipeline.
        repetition: r, frames on either side in which one frame of the style may sound once.
        polyphony: p, frames of the style that may sound at once.
        continuity: c, frames on either side along the diagonals.
        iterations: L.

    Raises:
        TimbreflowError: a setting is out of range.
    """

    copies: Role | None = None
    parameters = 0

    def __init__(
        self,
        context: SystemContext,
        *,
        repetition: int = 3,
        polyphony: int = 10,
        continuity: int = 3,
        iterations: int = 50,
    ) -> None:
        if min(repetition, continuity) < 0 or min(polyphony, iterations) < 1:
            raise TimbreflowError(
                f"musaicing cannot use repetition {repetition}, polyphony {polyphony}, continuity {continuity} and "
                f"{iterations} iterations; give at least 0, 1, 0 and 1."
            )
        self._features = context.features
        self._settings = {"repetition": repetition, "polyphony": polyphony, "continuity": continuity}
        self._iterations = iterations

    def transfer(self, content: Tensor, style: Tensor, target: Tensor, *, seed: int) -> Tensor:
        """The content [B, N] made of frames of the style [B, S]; the target is not looked at.

        Raises:
            TimbreflowError: a sound holds NaN or infinity.
        """
        contents, styles = _arrays(content), _arrays(style)
        made = [
            as_loud_as(torch.from_numpy(self._mosaic(own, other, seed)), torch.from_numpy(own))
            for own, other in zip(contents, styles, strict=True)
        ]
        return torch.stack(made).to(content.device)

    def _mosaic(self, content: NDArray[np.float32], style: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        config = self._features
        frames: dict[str, Any] = {
            "n_fft": config.n_fft,
            "win_length": config.win_length,
            "hop_length": config.hop_length,
        }
        sources = librosa.stft(style, **frames)
        activations = activate(
            np.abs(librosa.stft(content, **frames)),
            np.abs(sources),
            **self._settings,
            iterations=self._iterations,
            seed=seed,
        )
        return np.asarray(librosa.istft(sources @ activations, **frames, length=len(content)), dtype=np.float32)


def activate(
    content: NDArray[np.float32],
    style: NDArray[np.float32],
    *,
    repetition: int,
    polyphony: int,
    continuity: int,
    iterations: int,
    seed: int,
) -> NDArray[np.float32]:
    """When each frame of the style sounds: H [S, T], not negative, from magnitudes V [F, T] and W [F, S]."""
    total = style.sum(axis=0)[:, None] + _SMALLEST
    activations = np.random.default_rng(seed).random((style.shape[1], content.shape[1]), dtype=np.float32)
    for iteration in range(1, iterations + 1):
        weakened = np.float32(1 - iteration / iterations)
        loudest = maximum_filter1d(activations, 2 * repetition + 1, axis=1, mode="constant")
        activations = np.where(activations >= loudest, activations, activations * weakened)
        activations = np.where(
            activations >= _nth_greatest(activations, polyphony), activations, activations * weakened
        )
        activations = _along_diagonals(activations, continuity)
        ratio = content / (style @ activations + _SMALLEST)
        activations = activations * (style.T @ ratio) / total
    return activations


def _nth_greatest(activations: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """The n-th greatest value of each column [S, T]: [1, T]."""
    n = min(n, len(activations))
    return np.asarray(np.partition(activations, -n, axis=0)[-n][None], dtype=np.float32)


def _along_diagonals(activations: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Each value [S, T] plus its neighbours up to `reach` steps along its diagonal."""
    summed = activations.copy()
    for step in range(1, min(reach, *(size - 1 for size in activations.shape)) + 1):
        summed[step:, step:] += activations[:-step, :-step]
        summed[:-step, :-step] += activations[step:, step:]
    return summed


def _arrays(sounds: Tensor) -> NDArray[np.float32]:
    """Sounds [B, N] as float32 on the CPU, refused where they are not finite."""
    if not bool(torch.isfinite(sounds).all()):
        raise TimbreflowError("content or style holds NaN or infinity; musaicing takes finite samples.")
    return np.asarray(sounds.detach().float().cpu().numpy(), dtype=np.float32)
