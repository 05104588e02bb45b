"""Triples as sound, for models whose features are not the stored ones, such as the paper's log_stft.

The loader gives waveforms; features are made from them on the device of the model, which is quicker than storing
1025 bins a frame.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer
from timbreflow.data.manifest import read_clip_notes, read_manifest, triple_rows
from timbreflow.data.mels import RunningStatistics
from timbreflow.data.shards import AudioShards
from timbreflow.data.triples import ClipNotes, Pairs, TripleBatch, is_self_supervised


@dataclass
class TripleAudioBatch:
    """A batch of triples as sound, or, without the leading B, one triple.

    Attributes:
        content: [B, N] float32.
        style: [B, N] float32.
        target: [B, N] float32.
        content_roll: [B, 128, T] bool, at the frames of the dataset's FeatureConfig.
        timbre: [B] int64, index of the timbre of style and target within its split.
    """

    content: Tensor
    style: Tensor
    target: Tensor
    content_roll: Tensor
    timbre: Tensor

    def __len__(self) -> int:
        return len(self.timbre)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "TripleAudioBatch":
        """The same batch on another device."""
        return TripleAudioBatch(*(tensor.to(device, non_blocking=non_blocking) for tensor in vars(self).values()))

    def pin_memory(self) -> "TripleAudioBatch":
        """The same batch in page-locked memory; the loader calls this."""
        return TripleAudioBatch(*(tensor.pin_memory() for tensor in vars(self).values()))


def to_features(batch: TripleAudioBatch, extractor: FeatureExtractor, normalizer: Normalizer) -> TripleBatch:
    """Turn sound into normalised features, without gradients, where the batch and the extractor are.

    Args:
        batch: sound.
        extractor: on the device of the batch.
        normalizer: statistics of these features.

    Returns:
        [B, M, T] for content, style and target.
    """
    with torch.no_grad():
        content, style, target = (
            normalizer.normalize(extractor(audio)) for audio in (batch.content, batch.style, batch.target)
        )
    return TripleBatch(
        content=content, style=style, target=target, content_roll=batch.content_roll, timbre=batch.timbre
    )


class AudioTripleDataset(Dataset[TripleAudioBatch]):
    """The triples of one split as sound.

    Args:
        audio: data/audio.
        features: settings that give the sample rate and the frames of the piano roll.
        split: train, validation, test or test_seen.
        pairs: as in TripleDataset.

    Attributes:
        triple_ids: ids in the order of the items, the same as TripleDataset's.
        timbres: timbre ids in the order of the timbre index.

    Raises:
        TimbreflowError: a file is missing, the split is empty, or a triple is incomplete.
    """

    def __init__(self, audio: Path, features: FeatureConfig, *, split: str, pairs: Pairs = "triples") -> None:
        self.features = features
        self.manifest = read_manifest(audio)
        self.triples = triple_rows(self.manifest, split)
        self.triple_ids = self.triples.ids
        self._self_supervised = np.array([is_self_supervised(name, pairs) for name in self.triple_ids])
        self._places = self.manifest[["shard", "offset", "nbytes"]].to_numpy(dtype=object)
        self._clip_ids = self.manifest["clip_id"].to_numpy()
        timbres = self.manifest["timbre_id"].to_numpy()[self.triples.target]
        self.timbres: list[str] = sorted(set(timbres))
        self._timbre = np.searchsorted(np.array(self.timbres), timbres.astype(str))
        self._notes = ClipNotes(read_clip_notes(audio))
        self._shards = AudioShards(audio, sample_rate=features.sample_rate)

    def __len__(self) -> int:
        return len(self.triple_ids)

    def __getitem__(self, item: int) -> TripleAudioBatch:
        triples = self.triples
        target = self.audio(triples.target[item])
        content = target if self._self_supervised[item] else self.audio(triples.content[item])
        content_clip = self._clip_ids[triples.content[item]]
        n_frames = self.features.n_frames(target.shape[-1])
        roll = self._notes.of(content_clip).piano_roll(n_frames, self.features.seconds_per_frame)
        return TripleAudioBatch(
            content=content,
            style=self.audio(triples.style[item]),
            target=target,
            content_roll=torch.from_numpy(roll),
            timbre=torch.tensor(int(self._timbre[item])),
        )

    def audio(self, position: int) -> Tensor:
        """One clip by its row in the manifest: [N] float32."""
        shard, offset, nbytes = self._places[position]
        return torch.from_numpy(self._shards.read(shard, offset, nbytes))

    def collate(self, items: list[TripleAudioBatch]) -> TripleAudioBatch:
        """A batch of items."""
        return TripleAudioBatch(
            *(torch.stack(tensors) for tensors in zip(*(vars(item).values() for item in items), strict=True))
        )


def fit_normalizer(
    dataset: AudioTripleDataset, extractor: FeatureExtractor, *, n_triples: int, device: torch.device | str = "cpu"
) -> Normalizer:
    """Statistics of features that are not stored, over an even sample of a dataset.

    Args:
        dataset: of the training split.
        extractor: on `device`.
        n_triples: triples that are taken; a few hundred settle mean and deviation.
        device: where features are made.
    """
    statistics = RunningStatistics(extractor.n_features)
    # Ids are in sorted order, which may group pieces; an even stride spreads the sample.
    stride = max(1, len(dataset) // n_triples)
    for item in range(0, len(dataset), stride)[:n_triples]:
        rows = (dataset.triples.content[item], dataset.triples.style[item], dataset.triples.target[item])
        audio = torch.stack([dataset.audio(row) for row in rows]).to(device)
        with torch.no_grad():
            statistics.update(extractor(audio).cpu().numpy())
    return statistics.normalizer()
