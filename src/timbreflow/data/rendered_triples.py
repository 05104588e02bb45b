"""Triples that are rendered when they are needed: any number of them without disk space, at the cost of CPU time.

Item k is the triple that the stage render_triples would store as number k of its split, for the same settings and
notes: the same clips, rounded to the same 16 bits, and features rounded as extract_mels stores them.
"""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer
from timbreflow.audio.files import to_int16
from timbreflow.data.manifest import SQUARE
from timbreflow.data.quantization import Quantization
from timbreflow.data.renderer import RenderInputs, TripleRenderer
from timbreflow.data.triples import Pairs, TripleBatch, is_self_supervised, stack
from timbreflow.rendering.clips import RenderedClip


class RenderedTriples(Dataset[TripleBatch]):
    """Triples of one split, rendered by the process that reads them; each loads its own SoundFonts.

    With `complete_squares` each drawn square is four items, of which each costs the rendering of the whole square.

    Args:
        inputs: settings, notes and SoundFonts.
        features: of the models.
        normalizer: statistics of the features; None gives sound instead of features.
        quantization: of features that are stored in 8 bits; None of those in half precision.
        split: train, validation, test or test_seen.
        count: number of triples, or with `complete_squares` of squares; not bound by `render_triples.triples`.
        pairs: as in Triples.
    """

    def __init__(
        self,
        inputs: RenderInputs,
        features: FeatureConfig,
        normalizer: Normalizer | None,
        *,
        quantization: Quantization | None = None,
        split: str,
        count: int,
        pairs: Pairs = "triples",
    ) -> None:
        self.features = features
        self._inputs = inputs
        self._normalizer = normalizer
        self._quantization = quantization
        self._extractor = FeatureExtractor(features).eval()
        self._split = split
        self._pairs = pairs
        self._square = inputs.config.complete_squares and split == "train"
        self._count = count * (len(SQUARE) if self._square else 1)
        self._renderer: TripleRenderer | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        """Without the synthesizer, which cannot be pickled."""
        return {**self.__dict__, "_renderer": None}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, item: int) -> TripleBatch:
        if not 0 <= item < self._count:
            raise IndexError(item)
        number, place = divmod(item, len(SQUARE)) if self._square else (item, 0)
        clips = {recipe.role: (recipe, clip, notes) for recipe, clip, notes in self._render(number)}
        content, style, target = (clips[role] for role in SQUARE[place])
        name = content[0].triple_id + (f"/{place}" if self._square else "")
        first = target if is_self_supervised(name, self._pairs) else content
        sounds = [_samples(clip) for _, clip, _ in (first, style, target)]
        loaded = sounds if self._normalizer is None else list(self._normalizer.normalize(self._features(sounds)))
        n_frames = self.features.n_frames(len(sounds[0]))
        return TripleBatch(
            content=loaded[0],
            style=loaded[1],
            target=loaded[2],
            content_roll=torch.from_numpy(content[2].piano_roll(n_frames, self.features.seconds_per_frame)),
            # Not its place among all timbres, which is not known here, but also a number that no other timbre has.
            timbre=torch.tensor(int(target[0].timbre.timbre_id, 16) >> 1),
        )

    def collate(self, items: list[TripleBatch]) -> TripleBatch:
        """Stack single triples along a new first axis."""
        return stack(items)

    def _render(self, number: int) -> list[Any]:
        # A synthesizer that a fork brought along is left alone.
        if self._renderer is None or self._process != os.getpid():
            self._renderer, self._process = TripleRenderer(self._inputs), os.getpid()
        return self._renderer.render(self._split, number)[0]

    @torch.no_grad()
    def _features(self, sounds: list[Tensor]) -> Tensor:
        """[3, M, T] float32, as they come back from shards."""
        features: Tensor = self._extractor(torch.stack(sounds))
        if self._quantization is None:
            return features.half().float()
        return torch.from_numpy(self._quantization.decode(self._quantization.encode(features.numpy())))


def _samples(clip: RenderedClip) -> Tensor:
    """[N] float32, as it comes back from FLAC."""
    return torch.from_numpy(to_int16(clip.audio).astype(np.float32) / np.float32(32768))
