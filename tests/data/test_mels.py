"""Stored features come back, and their statistics are those of all frames at once."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.tiny_audio import FEATURES
from timbreflow.audio.features import Normalizer
from timbreflow.data.mels import (
    ExtractConfig,
    MelShards,
    RunningStatistics,
    read_statistics,
    write_mels,
    write_statistics,
)
from timbreflow.errors import TimbreflowError


def test_rows_come_back_and_maps_do_not_travel_to_workers(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 3, (40, 32, 64)).astype(np.float32)
    write_mels(tmp_path / "train" / "a.npy", values)
    shards = MelShards(tmp_path)
    for row in (7, 0, 39):
        read = shards.read("train/a.npy", row)
        assert read.dtype == np.float16
        assert np.array_equal(read, values[row].astype(np.float16).astype(np.float32))
    assert isinstance(shards.shard("train/a.npy"), np.memmap)
    travelling = pickle.dumps(shards)
    assert len(travelling) < 1000
    assert np.array_equal(pickle.loads(travelling).read("train/a.npy", 7), shards.read("train/a.npy", 7))


def test_few_files_stay_open(tmp_path: Path) -> None:
    for name in "abcde":
        write_mels(tmp_path / f"{name}.npy", np.full((1, 2, 3), ord(name), dtype=np.float32))
    shards = MelShards(tmp_path, open_files=2)
    for name in "abcdeabcde":
        assert (shards.read(f"{name}.npy", 0) == ord(name)).all()
        assert len(shards._maps) <= 2


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf, 1e6):
        with pytest.raises(TimbreflowError, match="not finite"):
            write_mels(tmp_path / "a.npy", np.array([[[bad]]], dtype=np.float32))
    assert list(tmp_path.iterdir()) == []


def test_broken_shards_are_named(tmp_path: Path) -> None:
    write_mels(tmp_path / "good.npy", np.zeros((2, 3, 4), np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-8])
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    shards = MelShards(tmp_path)
    for name in ("none", "cut", "text", "flat", "objects"):
        with pytest.raises(TimbreflowError, match=f"{name}.npy.*run extract_mels"):
            shards.read(f"{name}.npy", 0)
    with pytest.raises(TimbreflowError, match="no row 2"):
        shards.read("good.npy", 2)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.floats(-1e3, 1e3), st.integers(0, 10**6))
def test_one_pass_in_parts_equals_all_at_once(counts: list[int], offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(offset, 2.0, (count, 3, 5)) for count in [*counts, 1]]
    one, merged = RunningStatistics(3), RunningStatistics(3)
    for part in parts:
        one.update(part)
        other = RunningStatistics(3)
        other.update(part)
        merged.merge(RunningStatistics.from_json(other.as_json()))
    everything = np.concatenate(parts)
    for statistics in (one, merged):
        normalizer = statistics.normalizer()
        assert np.allclose(normalizer.mean, everything.mean(axis=(0, 2)), rtol=1e-5, atol=1e-5)
        assert np.allclose(normalizer.std, everything.std(axis=(0, 2)), rtol=1e-4)


def test_a_constant_row_can_be_normalised() -> None:
    statistics = RunningStatistics(2)
    statistics.update(np.full((2, 2, 5), 4.0))
    assert torch.equal(statistics.normalizer().normalize(torch.full((1, 2, 5), 4.0)), torch.zeros(1, 2, 5))
    with pytest.raises(TimbreflowError, match="split train holds no features"):
        RunningStatistics(2).normalizer()


def test_statistics_travel_with_their_settings(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    normalizer = Normalizer(mean=torch.randn(32, generator=generator), std=torch.rand(32, generator=generator) + 0.1)
    write_statistics(tmp_path, normalizer, FEATURES)
    again, features = read_statistics(tmp_path)
    assert features == FEATURES
    assert torch.equal(again.mean, normalizer.mean)
    assert torch.equal(again.std, normalizer.std)
    write_statistics(tmp_path, Normalizer(mean=torch.zeros(3), std=torch.ones(3)), FEATURES)
    with pytest.raises(TimbreflowError, match="3 means for 32 features"):
        read_statistics(tmp_path)
    (tmp_path / "statistics.json").write_text("{}")
    with pytest.raises(TimbreflowError, match="lacks the features"):
        read_statistics(tmp_path)


def test_a_batch_size_of_zero_is_refused() -> None:
    with pytest.raises(TimbreflowError, match="batch_size"):
        ExtractConfig(batch_size=0, storage="float16")
