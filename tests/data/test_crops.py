"""Crops are a function of seed and number, lie inside their clip, and are filled up where the clip is short."""

from pathlib import Path

import numpy as np
import pytest
import torch

from timbreflow.audio.files import encode_flac
from timbreflow.data.crops import DRAWS, AudioCrops
from timbreflow.data.manifest import MANIFEST_SCHEMA, write_manifest
from timbreflow.data.sampling import make_loader
from timbreflow.data.shards import write_shard
from timbreflow.errors import TimbreflowError

RATE = 16_000
LENGTHS = {"a": 4000, "b": 900, "c": 6000}


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Three clips whose samples count up, so that a crop tells its place."""
    clips = [(name, encode_flac(np.arange(length, dtype=np.float32) / 2**15, RATE)) for name, length in LENGTHS.items()]
    entries = write_shard(tmp_path / "train/shard-00000.tar", clips)
    empty = {field.name: "" if str(field.type) == "string" else 0 for field in MANIFEST_SCHEMA}
    write_manifest(
        tmp_path,
        [
            {
                **empty,
                "clip_id": entry.clip_id,
                "split": "train",
                "shard": "train/shard-00000.tar",
                "offset": entry.offset,
                "nbytes": entry.nbytes,
                "n_samples": LENGTHS[entry.clip_id],
            }
            for entry in reversed(entries)
        ],
    )
    return tmp_path


def crops_of(audio: Path, *, seed: int = 0, length: int = 1000) -> AudioCrops:
    return AudioCrops(audio, split="train", sample_rate=RATE, length=length, seed=seed)


def test_crops_are_pieces_of_their_clips(audio: Path) -> None:
    crops = crops_of(audio)
    assert crops.clip_ids == ["a", "b", "c"]
    starts = set()
    for item in range(len(crops)):
        crop = torch.round(crops[item] * 2**15)
        assert crop.shape == (1000,)
        if crops.clip_ids[item % 3] == "b":
            assert torch.equal(crop[:900], torch.arange(900.0))
            assert not crop[900:].any()
        else:
            assert torch.equal(crop, crop[0] + torch.arange(1000.0))
            starts.add((item % 3, int(crop[0])))
    assert len(starts) > DRAWS


def test_the_same_crop_again(audio: Path) -> None:
    first, again, other = crops_of(audio), crops_of(audio), crops_of(audio, seed=1)
    assert all(torch.equal(first[n], again[n]) for n in range(len(first)))
    assert any(not torch.equal(first[n], other[n]) for n in range(len(first)))


def test_a_resumed_run_sees_the_same_batches(audio: Path) -> None:
    crops = crops_of(audio)
    unbroken = iter(make_loader(crops, 4, seed=3))
    batches = [next(unbroken) for _ in range(5)]
    assert batches[0].shape == (4, 1000)
    resumed = next(iter(make_loader(crops, 4, seed=3, start_step=4)))
    assert torch.equal(resumed, batches[4])


def test_spread_stays_inside(audio: Path) -> None:
    crops = crops_of(audio)
    assert crops.spread(2) == [0, 1]
    assert crops.spread(9) == [0, 1, 2]


def test_an_empty_split_is_refused(audio: Path) -> None:
    with pytest.raises(TimbreflowError, match="holds no clips"):
        AudioCrops(audio, split="validation", sample_rate=RATE, length=10, seed=0)
