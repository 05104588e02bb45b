"""Stage extract_mels: audio shards -> memory-mapped feature shards, index and normalisation statistics.

Features are made on the CPU, where the same sound gives the same bytes whatever else the machine has.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from timbreflow.audio.features import FeatureConfig, FeatureExtractor
from timbreflow.data.manifest import read_manifest
from timbreflow.data.mels import ExtractConfig, RunningStatistics, write_mel_index, write_mels, write_statistics
from timbreflow.data.quantization import Quantization
from timbreflow.data.shards import AudioShards
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, link_or_copy, read_json, sha256_file, stable_hash, write_json
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult
from timbreflow.stages.unfinished import note_reused, require_finished

STAGE = "extract_mels"


@dataclass(frozen=True)
class Shard:
    """One unit of work: the path of a tar, relative to data/audio, and the key of the scratch folder."""

    audio: str
    key: str

    @property
    def name(self) -> str:
        """Path of the array, relative to data/mels."""
        return str(Path(self.audio).with_suffix(".npy"))

    def file(self, layout: Layout) -> Path:
        """Where the finished array waits in scratch."""
        return layout.scratch(STAGE, self.key) / self.name

    def state(self, layout: Layout) -> Path:
        """Where its statistics wait."""
        return self.file(layout).with_suffix(".json")


def plan(config: ExtractConfig, features: FeatureConfig, *, layout: Layout) -> list[Shard]:
    """List the audio shards.

    Raises:
        TimbreflowError: the manifest is missing or holds no clips.
    """
    manifest = read_manifest(layout.audio)
    shards = _shards(manifest, config, features, layout)
    if not shards:
        raise TimbreflowError(f"{layout.audio / 'manifest.parquet'} holds no clips; run render_triples again.")
    note_reused(layout.scratch(STAGE, shards[0].key), [shard.file(layout) for shard in shards])
    return shards


def run_one(shard: Shard, config: ExtractConfig, features: FeatureConfig, *, layout: Layout) -> None:
    """Make one shard's features in scratch; returns at once when they are already there.

    Raises:
        TimbreflowError: the shard cannot be decoded, its clips differ in length, or have another sample rate.
    """
    if shard.file(layout).is_file():
        return
    manifest = read_manifest(layout.audio)
    clips = _clips_of(manifest, shard.audio)
    if clips["n_samples"].nunique() != 1:
        raise TimbreflowError(f"{layout.audio / shard.audio} holds clips of several lengths; run render_triples again.")
    sound = AudioShards(layout.audio, sample_rate=features.sample_rate)
    extractor = FeatureExtractor(features).eval()
    statistics = RunningStatistics(features.n_features)
    n_frames = features.n_frames(int(clips["n_samples"].iloc[0]))
    result = np.empty((len(clips), features.n_features, n_frames), dtype=config.storage)
    quantization = Quantization.of(features)
    places = clips[["shard", "offset", "nbytes", "n_samples"]].to_numpy(dtype=object)
    for first in range(0, len(clips), config.batch_size):
        batch = [_read(sound, *place) for place in places[first : first + config.batch_size]]
        with torch.no_grad():
            values = extractor(torch.from_numpy(np.stack(batch))).numpy()
        # Statistics are of the rounded features: that is what models will see.
        half = config.storage == "float16"
        stored = values.astype(np.float16) if half else quantization.encode(values)
        statistics.update(stored if half else quantization.decode(stored))
        result[first : first + len(batch)] = stored
    write_json(shard.state(layout), statistics.as_json())
    # Last, since this file says that the shard is done.
    write_mels(shard.file(layout), result)


def finish(config: ExtractConfig, features: FeatureConfig, *, layout: Layout) -> StageResult:
    """Move the shards into data/mels, write index.parquet, statistics.json and metrics.json.

    Raises:
        TimbreflowError: a shard has not been made, or the training split is empty.
    """
    manifest = read_manifest(layout.audio)
    shards = _shards(manifest, config, features, layout)
    scratch = layout.scratch(STAGE, shards[0].key)
    reused = require_finished(STAGE, scratch, [shard.file(layout) for shard in shards])
    statistics = RunningStatistics(features.n_features)
    indices = []
    with atomic_directory(layout.mels) as folder:
        for shard in shards:
            clips = _clips_of(manifest, shard.audio)
            indices.append(clips.assign(shard=shard.name, row=np.arange(len(clips), dtype=np.int32)))
            if clips["split"].iloc[0] == "train":
                statistics.merge(RunningStatistics.from_json(read_json(shard.state(layout))))
            (folder / shard.name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(shard.file(layout), folder / shard.name)
        normalizer = statistics.normalizer()
        write_mel_index(folder, pd.concat(indices, ignore_index=True))
        write_statistics(folder, normalizer, features)
    metrics = {
        "clips": float(len(manifest)),
        "frames": float((manifest["n_samples"] // features.hop_length).sum()),
        "hours": float(manifest["n_samples"].sum()) / features.sample_rate / 3600,
        "train_mean": float(normalizer.mean.mean()),
        "train_std": float(normalizer.std.mean()),
        "shards": float(len(shards)),
    }
    write_json(layout.results(STAGE) / "metrics.json", metrics)
    shutil.rmtree(scratch)
    summary = (
        f"{len(manifest)} clips ({metrics['hours']:.2f} h) as {features.kind} [{features.n_features} x T] "
        f"in {len(shards)} shards, reused {reused} shards."
    )
    return StageResult(summary, metrics)


def _shards(manifest: pd.DataFrame, config: ExtractConfig, features: FeatureConfig, layout: Layout) -> list[Shard]:
    # The manifest names the place, peak and RMS of every clip; sound that changes changes it.
    parts = (asdict(features), config.storage, sha256_file(layout.audio / "manifest.parquet"))
    key = f"{stable_hash(*parts):016x}"
    return [Shard(audio=audio, key=key) for audio in sorted(manifest["shard"].unique())]


def _clips_of(manifest: pd.DataFrame, audio: str) -> pd.DataFrame:
    """Rows of one shard in the order that their features are stored in."""
    return manifest[manifest["shard"] == audio].sort_values("offset")


def _read(sound: AudioShards, shard: str, offset: int, nbytes: int, n_samples: int) -> np.ndarray:
    audio = sound.read(shard, offset, nbytes)
    if len(audio) != n_samples:
        raise TimbreflowError(
            f"{sound.root / shard} holds a clip of {len(audio)} samples where the manifest says {n_samples}; "
            "run render_triples again."
        )
    return audio
