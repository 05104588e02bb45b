"""Short pieces of single clips as sound, for models that need neither triples nor notes, such as the vocoder."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from timbreflow.data.manifest import read_manifest
from timbreflow.data.shards import AudioShards
from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash

DRAWS = 16
"""Crops drawn from each clip before they repeat."""


class AudioCrops(Dataset[Tensor]):
    """Crops of one split, numbered: crop n is a function of the seed and n, and is one of clip n modulo their number.

    Args:
        audio: data/audio.
        split: train, validation, test or test_seen.
        sample_rate: of the clips, in Hz.
        length: samples of a crop; shorter clips are filled up with silence.
        seed: of the draws.

    Raises:
        TimbreflowError: a file is missing, or the split is empty.
    """

    def __init__(self, audio: Path, *, split: str, sample_rate: int, length: int, seed: int) -> None:
        manifest = read_manifest(audio)
        part = manifest[manifest["split"] == split].sort_values("clip_id")
        if part.empty:
            raise TimbreflowError(f"The split {split} holds no clips; render more triples of it.")
        self.clip_ids: list[str] = part["clip_id"].tolist()
        self._places = part[["shard", "offset", "nbytes"]].to_numpy(dtype=object)
        self._shards = AudioShards(audio, sample_rate=sample_rate)
        self._length = length
        self._seed = seed

    def __len__(self) -> int:
        return DRAWS * len(self.clip_ids)

    def __getitem__(self, item: int) -> Tensor:
        """Crop number `item`: [length] float32."""
        clip = self.clip(item % len(self.clip_ids))
        spare = len(clip) - self._length
        if spare <= 0:
            return torch.from_numpy(np.pad(clip, (0, -spare)))
        begin = stable_hash("crop", self._seed, item) % (spare + 1)
        return torch.from_numpy(clip[begin : begin + self._length].copy())

    def clip(self, number: int) -> np.ndarray:
        """A whole clip by its place in `clip_ids`: [N] float32."""
        return self._shards.read(*self._places[number])

    def spread(self, count: int) -> list[int]:
        """At most `count` places in `clip_ids`, evenly spread over the split."""
        total = len(self.clip_ids)
        return [number * total // min(count, total) for number in range(min(count, total))]

    def collate(self, items: list[Tensor]) -> Tensor:
        """[length] each -> [B, length]."""
        return torch.stack(items)
