"""The stage writes what datasets read, goes on where it was killed, and gives the same bytes each time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.tiny_audio import COUNTS, FEATURES, write_tiny_audio
from tests.sharded import run_all
from timbreflow.audio.features import FeatureExtractor
from timbreflow.data.manifest import read_manifest
from timbreflow.data.mels import ExtractConfig, MelShards, read_mel_index, read_statistics
from timbreflow.data.shards import AudioShards
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, sha256_file
from timbreflow.stages import extract_mels
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult

CONFIG = ExtractConfig(batch_size=4, storage="float16")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A tiny corpus without features."""
    write_tiny_audio(tmp_path / "data" / "audio")
    return Layout(tmp_path)


def extract(layout: Layout, config: ExtractConfig = CONFIG) -> StageResult:
    return run_all(extract_mels, config, FEATURES, layout=layout)


def digests(layout: Layout) -> dict[str, str]:
    files = sorted(path for path in layout.mels.rglob("*") if path.is_file())
    return {str(path.relative_to(layout.mels)): sha256_file(path) for path in files}


def test_every_clip_has_its_features_at_its_row(layout: Layout) -> None:
    report = extract(layout)
    index = read_mel_index(layout.mels).set_index("clip_id")
    clips = read_manifest(layout.audio)
    assert sorted(index.index) == sorted(clips["clip_id"])
    shards, sound, extractor = MelShards(layout.mels), AudioShards(layout.audio), FeatureExtractor(FEATURES)
    for _, clip in clips.iterrows():
        row = index.loc[clip["clip_id"]]
        stored = shards.read(row["shard"], int(row["row"]))
        audio = torch.from_numpy(sound.read(clip["shard"], clip["offset"], clip["nbytes"]))
        assert np.abs(stored - extractor(audio[None])[0].numpy()).max() < 1e-2
        assert (row["role"], row["split"], row["triple_id"]) == (clip["role"], clip["split"], clip["triple_id"])
    assert report.metrics["clips"] == 3 * sum(COUNTS.values())
    assert read_json(layout.results("extract_mels") / "metrics.json") == report.metrics


def test_statistics_are_of_the_training_split_alone(layout: Layout) -> None:
    extract(layout)
    index = read_mel_index(layout.mels)
    shards = MelShards(layout.mels)
    train = index[index["split"] == "train"]
    values = np.stack([shards.read(s, int(r)) for s, r in zip(train["shard"], train["row"], strict=True)]).astype(
        np.float32
    )
    normalizer, features = read_statistics(layout.mels)
    assert features == FEATURES
    assert np.allclose(normalizer.mean, values.mean(axis=(0, 2)), atol=1e-4)
    assert np.allclose(normalizer.std, values.std(axis=(0, 2)), rtol=1e-3)


def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(layout: Layout) -> None:
    extract(layout)
    unbroken = digests(layout)
    shards = extract_mels.plan(CONFIG, FEATURES, layout=layout)
    assert [shard.audio for shard in shards] == sorted(read_manifest(layout.audio)["shard"].unique())
    extract_mels.run_one(shards[0], CONFIG, FEATURES, layout=layout)
    done = shards[0].file(layout).stat().st_mtime_ns
    report = extract(layout)
    assert "reused 1 shards" in report.summary
    assert digests(layout) == unbroken
    assert (layout.mels / shards[0].name).stat().st_mtime_ns == done, "the finished shard was not made again"
    assert not list((layout.root / ".scratch").rglob("*.npy"))


def test_the_batch_size_changes_nothing(layout: Layout) -> None:
    extract(layout)
    first = digests(layout)
    extract(layout, ExtractConfig(batch_size=5, storage="float16"))
    assert digests(layout) == first


def test_other_features_do_not_reuse_shards(layout: Layout) -> None:
    before = extract_mels.plan(CONFIG, FEATURES, layout=layout)[0]
    extract_mels.run_one(before, CONFIG, FEATURES, layout=layout)
    other = dataclasses.replace(FEATURES, n_mels=16)
    after = extract_mels.plan(CONFIG, other, layout=layout)[0]
    assert not after.file(layout).exists()


def test_faults_stop_the_stage_and_leave_no_output(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="is at 8000 Hz, not 16000"):
        run_all(extract_mels, CONFIG, dataclasses.replace(FEATURES, sample_rate=16000), layout=layout)
    with pytest.raises(TimbreflowError, match="it continues from here"):
        extract_mels.finish(CONFIG, FEATURES, layout=layout)
    tar = layout.audio / "test" / "shard-00000.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(TimbreflowError, match="shard-00000.tar is shorter than its manifest says"):
        extract(layout)
    tar.unlink()
    with pytest.raises(TimbreflowError, match="shard-00000.tar is missing"):
        extract(layout)
    assert not layout.mels.exists()
    with pytest.raises(TimbreflowError, match="manifest.parquet is missing"):
        extract_mels.plan(CONFIG, FEATURES, layout=Layout(tmp_path / "empty"))
