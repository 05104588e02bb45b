"""Triples of stored features, as models take them: content and style in, target out.

content plays notes A with timbre i, style plays notes B with timbre j, target plays notes A with timbre j.
The target never conditions anything. `pairs="self_supervised"` puts the target in the content's place, which is the
setting of Cífka et al. (ICASSP 2021) and needs no notes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.manifest import all_triple_positions, are_recordings, read_clip_notes
from timbreflow.data.mels import MelShards, read_mel_index, read_statistics
from timbreflow.data.quantization import Quantization
from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash
from timbreflow.notes.tables import Notes
from timbreflow.parallel import draw

Pairs = Literal["triples", "self_supervised", "mixed"]


@dataclass
class TripleBatch:
    """A batch of triples, or, without the leading B, one triple.

    Attributes:
        content: [B, M, T] normalised; as sound, from an AudioTripleDataset, [B, N] float32.
        style: the same.
        target: the same.
        content_roll: [B, 128, T] bool, which pitches sound in content and target.
        timbre: [B] int64, a number that the timbre of style and target shares with no other of its split.
    """

    content: Tensor
    style: Tensor
    target: Tensor
    content_roll: Tensor
    timbre: Tensor

    def __len__(self) -> int:
        return len(self.timbre)

    def map(self, change: Callable[[Tensor], Tensor]) -> "TripleBatch":
        """The batch with a function applied to each of its tensors."""
        return TripleBatch(*map(change, vars(self).values()))

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "TripleBatch":
        """The same batch on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def double(self) -> "TripleBatch":
        """The same batch with features in float64."""
        return self.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def pin_memory(self) -> "TripleBatch":
        """The same batch in page-locked memory; the loader calls this."""
        return self.map(Tensor.pin_memory)


def stack(items: list[TripleBatch]) -> TripleBatch:
    """A batch of single triples, along a new first axis."""
    return TripleBatch(*map(torch.stack, zip(*(vars(item).values() for item in items), strict=True)))


def crop(batch: TripleBatch, frames: int, *, seed: int, number: int) -> TripleBatch:
    """The same stretch of content, target and roll, each triple at a place of its own; the style stays whole.

    Args:
        batch: batch number `number`, or this process's part of it.
        frames: length to keep; 0, or no less than the clips have, keeps all.
        seed: the places are a function of it and of `number` alone.
        number: of the batch.
    """
    length = batch.target.shape[-1]
    if frames == 0 or frames >= length:
        return batch
    generator = torch.Generator().manual_seed(stable_hash("crop", seed, number) >> 1)
    starts = draw(len(batch), lambda n: torch.randint(length - frames + 1, (n,), generator=generator))
    places = (starts[:, None, None] + torch.arange(frames)).to(batch.target.device)

    def cut(x: Tensor) -> Tensor:
        return x.gather(2, places.expand(-1, x.shape[1], -1))

    return replace(batch, content=cut(batch.content), target=cut(batch.target), content_roll=cut(batch.content_roll))


def is_self_supervised(triple_id: str, pairs: Pairs) -> bool:
    """Whether the target takes the content's place; "mixed" does so for the half that a stable hash chooses.

    Raises:
        TimbreflowError: pairs is none of the three words.
    """
    if pairs not in get_args(Pairs):
        raise TimbreflowError(f"pairs is {pairs!r}; choose one of {', '.join(get_args(Pairs))}.")
    return pairs == "self_supervised" or (pairs == "mixed" and stable_hash("pairs", triple_id) % 2 == 0)


class ClipNotes:
    """The true notes of clips, by clip.

    Args:
        table: clip_notes, any order.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        codes, names = pd.factorize(table["clip_id"], sort=True)
        order = np.lexsort((table["pitch"], table["onset"], codes))
        counts = np.bincount(codes, minlength=len(names))
        ends = np.cumsum(counts)
        self._ranges = {name: (int(end - n), int(end)) for name, end, n in zip(names, ends, counts, strict=True)}
        self._columns = {
            name: np.ascontiguousarray(table[name].to_numpy()[order], dtype=dtype)
            for name, dtype in (("onset", "f4"), ("duration", "f4"), ("pitch", "u1"), ("velocity", "u1"))
        }

    def of(self, clip_id: str) -> Notes:
        """Notes of one clip, sorted by (onset, pitch).

        Raises:
            TimbreflowError: the table has no notes for it.
        """
        if clip_id not in self._ranges:
            raise TimbreflowError(f"clip_notes.parquet has no notes for the clip {clip_id}; run render_triples again.")
        first, end = self._ranges[clip_id]
        return Notes(**{name: column[first:end] for name, column in self._columns.items()})


class Triples(Dataset[TripleBatch], ABC):
    """The triples of one split; how a clip is loaded is the subclass's.

    Args:
        clips: manifest or mel index, with a plain 0..n-1 index.
        audio: data/audio, for the notes of its clips.
        features: settings that give the frames of the piano roll.
        split: train, validation, test or test_seen.
        pairs: "triples"; "self_supervised" (content := target); or "mixed", half of the triples each.

    Attributes:
        features: as given.
        positions: row numbers of `clips`: one row a triple; columns content, style and target.
        triple_ids: ids in the order of the items.
        timbres: timbre ids in the order of the timbre index.
        self_supervised: of each item, whether the target takes the content's place.
        held_out_pairs: pairs to validate with: true triples, unless the clips are of recordings, which have none.

    Raises:
        TimbreflowError: a file is missing, the split is empty, a triple is incomplete, or the clips are of recordings
            and pairs is not "self_supervised".
    """

    def __init__(self, clips: pd.DataFrame, audio: Path, features: FeatureConfig, *, split: str, pairs: Pairs) -> None:
        self.features = features
        self._recorded = are_recordings(clips)
        if self._recorded and pairs != "self_supervised":
            raise TimbreflowError(f"{audio} holds recordings, which have no triples; set pairs to self_supervised.")
        self.held_out_pairs: Pairs = "self_supervised" if self._recorded else "triples"
        self.positions = all_triple_positions(clips, split)
        self.triple_ids: list[str] = self.positions.index.tolist()
        self._content, self._style, self._target = self.positions.to_numpy().T
        self.self_supervised = np.array([is_self_supervised(name, pairs) for name in self.triple_ids])
        self._clip_ids = clips["clip_id"].to_numpy()
        timbres = clips["timbre_id"].to_numpy()[self._target]
        self.timbres: list[str] = sorted(set(timbres))
        self._timbre = np.searchsorted(np.array(self.timbres), timbres.astype(str))
        self._notes = ClipNotes(read_clip_notes(audio))

    def __len__(self) -> int:
        return len(self.triple_ids)

    def __getitem__(self, item: int) -> TripleBatch:
        return self.__getitems__([item]).map(lambda tensor: tensor[0])

    def __getitems__(self, items: Sequence[int]) -> TripleBatch:
        """A whole batch at once, which is how torch's loader asks when it can."""
        places = np.asarray(items)
        rows, target_rows = self._content[places], self._target[places]
        target = self.load(target_rows)
        return TripleBatch(
            content=self.load(np.where(self.self_supervised[places], target_rows, rows)),
            style=self.load(self._style[places]),
            target=target,
            content_roll=self.piano_rolls(rows, self.n_frames(target)),
            timbre=self.timbre(places),
        )

    def piano_rolls(self, rows: np.ndarray, frames: int) -> Tensor:
        """Which pitches sound in clips of these rows: [B, 128, frames] bool, all False in recordings."""
        rolls = np.zeros((len(rows), 128, frames), bool)
        for row, roll in zip(rows, rolls, strict=True) if not self._recorded else ():
            self._notes.of(self._clip_ids[row]).piano_roll(frames, self.features.seconds_per_frame, out=roll)
        return torch.from_numpy(rolls)

    def timbre(self, places: np.ndarray | slice) -> Tensor:
        """Timbre numbers [B] int64 of items."""
        return torch.from_numpy(self._timbre[places])

    @abstractmethod
    def load(self, rows: np.ndarray) -> Tensor:
        """Clips by their rows: [B, M, T] normalised, or [B, N] float32."""

    def n_frames(self, clips: Tensor) -> int:
        """T of loaded clips."""
        return clips.shape[-1]

    def collate(self, items: list[TripleBatch] | TripleBatch) -> TripleBatch:
        """Stack single triples along a new first axis; a batch passes."""
        return items if isinstance(items, TripleBatch) else stack(items)


class TripleDataset(Triples):
    """Triples as stored features.

    Args:
        mels: data/mels.
        audio: data/audio, for the notes of its clips.
        split: as in Triples.
        pairs: the same.

    Attributes:
        normalizer: statistics of the training split.
        quantization: of features that are stored in 8 bits; None of those in half precision.
    """

    def __init__(self, mels: Path, audio: Path, *, split: str, pairs: Pairs = "triples") -> None:
        self.normalizer, features = read_statistics(mels)
        index = read_mel_index(mels)
        super().__init__(index, audio, features, split=split, pairs=pairs)
        self._places = list(zip(index["shard"], index["row"].tolist(), strict=True))
        self._shards = MelShards(mels)
        eight_bits = self._shards.shard(self._places[0][0]).dtype == np.uint8
        self.quantization = Quantization.of(features) if eight_bits else None

    def stored(self, rows: np.ndarray) -> Tensor:
        """Clips by their rows in the index, as they are stored: [B, M, T] raw float16, or uint8 levels."""
        return torch.from_numpy(np.stack([self._read(row) for row in rows]))

    def _read(self, row: int) -> np.ndarray:
        return self._shards.read(*self._places[row])

    def load(self, rows: np.ndarray) -> Tensor:
        """Clips by their rows in the index: [B, M, T] normalised.

        Each clip is copied, widened and normalised before the next, while it is in the processor's cache: a fifth of
        the time of the same over the whole batch.
        """
        clips = [self._read(row) for row in rows]
        mean, std = self.normalizer.mean[:, None], self.normalizer.std[:, None]
        stored = np.empty_like(clips[0])
        raw = torch.from_numpy(stored)
        normalised = torch.empty(len(clips), *raw.shape)
        for clip, out in zip(clips, normalised, strict=True):
            np.copyto(stored, clip)
            out.copy_(raw)
            if self.quantization is not None:
                out.mul_(self.quantization.step).add_(self.quantization.low)
            out.sub_(mean).div_(std)
        return normalised
