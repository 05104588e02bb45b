"""What recordings of a style tell a model: features of their most active part, and tokens fitted to them."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from timbreflow.inference.decoding import DecodingOptions
from timbreflow.inference.recordings import Recording, open_recording
from timbreflow.inference.style_fitting import FittedStyle, fit_style
from timbreflow.models.bundle import ModelBundle
from timbreflow.models.glow.model import Glow

SHORTEST_STYLE_SECONDS = 0.5
LONGEST_STYLE_SECONDS = 16.0
STYLES_KEPT = 32
USUAL_NOISE = 0.1
"""Noise on the features in the training of a flow whose bundle does not tell it."""

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
        self._read: OrderedDict[Hashable, tuple[Tensor, tuple[str, ...]]] = OrderedDict()
        self._fitted: OrderedDict[Hashable, FittedStyle] = OrderedDict()

    def read(self, path: Path) -> Tensor:
        """[1, M, S] normalised features of a file, at least half a second of sound.

        Raises:
            TimbreflowError: the file is missing, corrupt, silent or too short.
        """
        return self._of_file(path)[0]

    def notes(self, path: Path) -> tuple[str, ...]:
        """Sentences on what of the file is not taken as it is."""
        return self._of_file(path)[1]

    def _of_file(self, path: Path) -> tuple[Tensor, tuple[str, ...]]:
        def read() -> tuple[Tensor, tuple[str, ...]]:
            style = open_recording(path, minimum_seconds=SHORTEST_STYLE_SECONDS)
            return self.features_of(style), style.notes

        state = path.stat() if path.is_file() else None
        key = (str(path.resolve()), state.st_mtime_ns, state.st_size) if state else None
        return _kept(self._read, key, read)

    @torch.inference_mode()
    def features_of(self, style: Recording) -> Tensor:
        """[1, M, S] normalised features of the most active 16 s of a recording."""
        config = self._bundle.features
        audio = style.excerpt(config.sample_rate, seconds=LONGEST_STYLE_SECONDS)
        # Contents tell their own style too, and may be shorter than a frame.
        features = self._features(np.pad(audio, (0, max(0, config.hop_length - len(audio))))[None])
        repeats = -(-self._frames // features.shape[-1])
        # Frames are repeated, not samples: a seam in the sound would be a click, which has a timbre of its own.
        return features.repeat(1, 1, repeats)[..., : max(self._frames, features.shape[-1])]

    def fitted(self, style: Tensor, options: DecodingOptions) -> FittedStyle:
        """The style's tokens after `options.fit_style` steps.

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
                noise=float(section.get("noise", USUAL_NOISE)),
                generator=torch.Generator(style.device).manual_seed(options.seed),
            )

        digest = hashlib.sha256(style.cpu().numpy().tobytes()).hexdigest()
        return _kept(self._fitted, (digest, options.fit_style, options.seed), fit)


def _kept(shelf: "OrderedDict[Hashable, ValueT]", key: Hashable, make: Callable[[], ValueT]) -> ValueT:
    """What the shelf holds under a key, made where it is missing; the shelf keeps the last `STYLES_KEPT` asked for."""
    if key not in shelf:
        shelf[key] = make()
        if len(shelf) > STYLES_KEPT:
            shelf.popitem(last=False)
    shelf.move_to_end(key)
    return shelf[key]
