"""Stored triples that lie in the memory of the device, so that a training waits for no loader."""

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from timbreflow.data.sampling import StepSampler
from timbreflow.data.triples import TripleBatch, TripleDataset
from timbreflow.errors import TimbreflowError
from timbreflow.parallel import part

VARIABLE = "TIMBREFLOW_PRELOAD"
CLIPS_AT_ONCE = 1000


class DeviceTriples:
    """Triples whose features, as they are stored, and piano rolls are copied to a device once.

    Batches are those of the loader, in its order; 60,000 clips of 8 s take 4 GB with 8 bits.

    Args:
        dataset: the stored triples.
        device: where they go.
    """

    def __init__(self, dataset: TripleDataset, device: torch.device) -> None:
        self._device = device
        notes, styles, targets = dataset.positions.to_numpy().T
        contents = np.where(dataset.self_supervised, targets, notes)
        clips, places = np.unique(np.stack([contents, styles, targets]), return_inverse=True)
        self._content, self._style, self._target = torch.from_numpy(places.reshape(3, -1)).to(device)
        # Content and target have one piano roll, since they play the same notes.
        noted, rolls = np.unique(notes, return_inverse=True)
        self._roll = torch.from_numpy(rolls).to(device)
        self._timbre = dataset.timbre(slice(None)).to(device)
        self._features = self._filled(len(clips), lambda part: dataset.stored(clips[part]))
        frames = self._features.shape[-1]
        self._rolls = self._filled(len(noted), lambda part: dataset.piano_rolls(noted[part], frames))
        self._mean, self._std = (x[:, None].to(device) for x in (dataset.normalizer.mean, dataset.normalizer.std))
        self._quantization = dataset.quantization

    def _filled(self, count: int, read: Callable[[slice], Tensor]) -> Tensor:
        first = read(slice(0, 1))
        filled = torch.empty(count, *first.shape[1:], dtype=first.dtype, device=self._device)
        for start in range(0, count, CLIPS_AT_ONCE):
            chosen = slice(start, start + CLIPS_AT_ONCE)
            filled[chosen] = read(chosen).to(self._device)
        return filled

    def __getitem__(self, items: Sequence[int]) -> TripleBatch:
        """A batch of triples by their numbers."""
        chosen = torch.tensor(items).to(self._device)
        return TripleBatch(
            content=self._load(self._content[chosen]),
            style=self._load(self._style[chosen]),
            target=self._load(self._target[chosen]),
            content_roll=self._rolls[self._roll[chosen]],
            timbre=self._timbre[chosen],
        )

    def batches(self, batch_size: int, start: int, *, seed: int) -> Iterator[TripleBatch]:
        """Endless batches from batch number `start`: as `make_loader` gives them, but on the device."""
        sampler = StepSampler(len(self._content), batch_size, seed, start, part=part(batch_size))
        return (self[items] for items in sampler)

    def _load(self, places: Tensor) -> Tensor:
        features = self._features[places].float()
        if self._quantization is not None:
            features.mul_(self._quantization.step).add_(self._quantization.low)
        return features.sub_(self._mean).div_(self._std)


def may_preload(dataset: TripleDataset, device: torch.device) -> bool:
    """Whether the triples go into the memory of the device: TIMBREFLOW_PRELOAD, which is auto, 1 or 0.

    auto does so on a CUDA device where they take at most a quarter of the memory that is free.

    Raises:
        TimbreflowError: the variable says something else.
    """
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in {"auto", "1", "0"}:
        raise TimbreflowError(f"{VARIABLE} is {asked!r}; set it to auto, 1 or 0.")
    if asked != "auto" or device.type != "cuda":
        return asked == "1"
    clip = dataset.stored(dataset.positions["target"].to_numpy()[:1])
    clips = len(np.unique(dataset.positions.to_numpy()))
    size = clips * (clip.numel() * clip.element_size() + clip.shape[-1] * 128)
    return size <= torch.cuda.mem_get_info(device)[0] / 4
