"""Triples as sound, for models whose features are not the stored ones, such as the paper's log_stft.

The loader gives waveforms; features are made from them on the device of the model, which is quicker than storing
1025 bins a frame.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer
from timbreflow.data.manifest import ROLES, read_manifest
from timbreflow.data.mels import RunningStatistics
from timbreflow.data.shards import AudioShards
from timbreflow.data.triples import Pairs, TripleBatch, Triples


def to_features(batch: TripleBatch, extractor: FeatureExtractor, normalizer: Normalizer) -> TripleBatch:
    """Turn sound into normalised features, without gradients, where the batch and the extractor are.

    Args:
        batch: sound.
        extractor: on the device of the batch.
        normalizer: statistics of these features.

    Returns:
        [B, M, T] for content, style and target.
    """
    with torch.no_grad():
        return replace(batch, **{role: normalizer.normalize(extractor(getattr(batch, role))) for role in ROLES})


class AudioTripleDataset(Triples):
    """Triples as sound, the same ones as TripleDataset's.

    Args:
        audio: data/audio.
        features: settings that give the sample rate and the frames of the piano roll.
        split: as in Triples.
        pairs: the same.
    """

    def __init__(self, audio: Path, features: FeatureConfig, *, split: str, pairs: Pairs = "triples") -> None:
        manifest = read_manifest(audio)
        super().__init__(manifest, audio, features, split=split, pairs=pairs)
        self._places = manifest[["shard", "offset", "nbytes"]].to_numpy(dtype=object)
        self._shards = AudioShards(audio, sample_rate=features.sample_rate)

    def load(self, rows: np.ndarray) -> Tensor:
        """Clips by their rows in the manifest: [B, N] float32."""
        return torch.from_numpy(np.stack([self._shards.read(*self._places[row]) for row in rows]))

    def n_frames(self, clips: Tensor) -> int:
        """T that the features of clips will have."""
        return self.features.n_frames(clips.shape[-1])


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
    statistics = RunningStatistics(extractor.config.n_features)
    # Ids are in sorted order, which may group pieces; an even stride spreads the sample.
    stride = max(1, len(dataset) // n_triples)
    for item in range(0, len(dataset), stride)[:n_triples]:
        audio = dataset.load(dataset.positions.iloc[item].to_numpy()).to(device)
        with torch.no_grad():
            statistics.update(extractor(audio).cpu().numpy())
    return statistics.normalizer()
