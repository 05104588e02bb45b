"""Triplets for the timbre metric: two clips of one timbre with different notes, and one clip of another timbre."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from timbreflow.audio.files import resample
from timbreflow.data.manifest import read_manifest, triple_positions
from timbreflow.data.sampling import StepSampler
from timbreflow.data.shards import AudioShards
from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash
from timbreflow.models.timbre_metric import SAMPLE_RATE, TimbreCoefficients

DRAWS = 64
"""Triplets drawn from each triple before an epoch ends: as many negatives for one pair."""


@dataclass
class TripletBatch:
    """MFCC 2-13 of a batch, [B, 12, T]; `positive` has the anchor's timbre, `negative` another one."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor

    def __len__(self) -> int:
        return len(self.anchor)

    def to(self, device: torch.device | str, /) -> "TripletBatch":
        """The same batch on another device."""
        return TripletBatch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    def double(self) -> "TripletBatch":
        """The same batch with features in float64."""
        return TripletBatch(*(tensor.double() for tensor in vars(self).values()))


class Triplets:
    """Triplets of one split, numbered: triplet n is a function of the seed and n.

    Anchor and positive are style and target of one triple, in drawn order. The negative is the content of the same
    triple, which plays the target's own notes with another timbre, or any clip of another timbre.

    Args:
        audio: data/audio.
        split: of the manifest.
        sample_rate: of the clips, in Hz.
        hard_negatives: probability of the triple's own content.
        seed: of the draws.
        cache_mb: memory for coefficients, in MB; the clips used longest ago are forgotten first.
        device: makes coefficients.

    Raises:
        TimbreflowError: a file is missing, or the split has only one timbre.
    """

    def __init__(
        self,
        audio: Path,
        *,
        split: str,
        sample_rate: int,
        hard_negatives: float,
        seed: int,
        cache_mb: int,
        device: torch.device | str = "cpu",
    ) -> None:
        manifest = read_manifest(audio)
        self._triples = triple_positions(manifest, split)[["content", "style", "target"]].to_numpy()
        self._places = manifest[["shard", "offset", "nbytes"]].to_numpy(dtype=object)
        self._timbres = manifest["timbre_id"].to_numpy()
        self._clips = np.flatnonzero((manifest["split"] == split).to_numpy())
        if len(set(self._timbres[self._clips])) < 2:
            raise TimbreflowError(f"The split {split} of {audio} has one timbre only; render more timbres.")
        self._shards = AudioShards(audio, sample_rate=sample_rate)
        self._sample_rate = sample_rate
        self._hard_negatives = hard_negatives
        self._seed = seed
        self._device = torch.device(device)
        self._extract = TimbreCoefficients().to(self._device)
        self._slots: OrderedDict[int, int] = OrderedDict()
        self._room = cache_mb * 2**20
        self._cache = torch.empty(0)

    def __len__(self) -> int:
        """How many triplets there are before the draws repeat."""
        return DRAWS * len(self._triples)

    def clips(self, number: int) -> tuple[int, int, int]:
        """Manifest rows of anchor, positive and negative of triplet `number`."""
        random = np.random.default_rng(stable_hash("triplet", self._seed, number))
        content, style, target = (int(row) for row in self._triples[number % len(self._triples)])
        anchor, positive = (style, target) if random.random() < 0.5 else (target, style)
        timbre = self._timbres[anchor]
        if random.random() < self._hard_negatives and self._timbres[content] != timbre:
            return anchor, positive, content
        while True:
            negative = int(random.choice(self._clips))
            if self._timbres[negative] != timbre:
                return anchor, positive, negative

    def batch(self, numbers: list[int]) -> TripletBatch:
        """Triplets by their numbers."""
        rows = zip(*(self.clips(number) for number in numbers), strict=True)
        return TripletBatch(*(torch.stack([self._extract_one(row) for row in part]) for part in rows))

    def batches(self, start: int, *, batch_size: int) -> Iterator[TripletBatch]:
        """Endless shuffled batches from batch number `start`."""
        for numbers in StepSampler(len(self), batch_size, self._seed, start):
            yield self.batch(numbers)

    def _extract_one(self, row: int) -> Tensor:
        """Coefficients of one clip, [12, T], from the cache or from its FLAC."""
        if row in self._slots:
            self._slots.move_to_end(row)
            return self._cache[self._slots[row]].clone()  # the slot may be another clip's in a moment
        sound = self._shards.read(*self._places[row])
        sound = resample(sound, self._sample_rate, SAMPLE_RATE)
        found: Tensor = self._extract(torch.from_numpy(sound).to(self._device)[None])[0].cpu()
        if not len(self._slots):
            # One block: thousands of small tensors among large short-lived ones fragment the heap to 30-fold size.
            slots = min(self._room // (found.numel() * found.element_size()), len(self._timbres))
            self._cache = torch.empty(slots, *found.shape)
        if len(self._cache):
            full = len(self._slots) == len(self._cache)
            slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
            self._cache[slot] = found
            self._slots[row] = slot
        return found
