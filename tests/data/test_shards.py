"""Shards are a function of their clips, and random access finds what reading in order finds."""

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from timbreflow.audio.files import decode_audio, encode_flac
from timbreflow.data.shards import AudioShards, write_shard
from timbreflow.errors import TimbreflowError


def _clips(count: int = 5) -> dict[str, bytes]:
    rng = np.random.default_rng(3)
    return {f"clip-{i}": encode_flac(rng.uniform(-0.5, 0.5, 100 + 333 * i), 16000) for i in range(count)}


def test_a_second_writing_in_another_order_gives_the_same_bytes(tmp_path: Path) -> None:
    clips = _clips()
    first = write_shard(tmp_path / "a.tar", clips.items())
    second = write_shard(tmp_path / "b.tar", reversed(clips.items()))
    assert first == second
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_random_access_equals_reading_the_tar_in_order(tmp_path: Path) -> None:
    entries = write_shard(tmp_path / "train" / "a.tar", _clips().items())
    shards = pickle.loads(pickle.dumps(AudioShards(tmp_path, sample_rate=16000)))
    with tarfile.open(tmp_path / "train" / "a.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert list(members) == [f"{entry.clip_id}.flac" for entry in entries]
    for entry in reversed(entries):
        assert shards.read_bytes("train/a.tar", entry.offset, entry.nbytes) == members[f"{entry.clip_id}.flac"]
        audio = shards.read("train/a.tar", entry.offset, entry.nbytes)
        assert np.array_equal(audio, decode_audio(members[f"{entry.clip_id}.flac"])[0][0])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.from_regex(r"[a-z0-9-]{1,60}", fullmatch=True), st.binary(min_size=1, max_size=2000)))
def test_offsets_hold_for_any_names_and_sizes(tmp_path: Path, clips: dict[str, bytes]) -> None:
    entries = write_shard(tmp_path / "any.tar", clips.items())
    shards = AudioShards(tmp_path)
    assert {e.clip_id: shards.read_bytes("any.tar", e.offset, e.nbytes) for e in entries} == clips


def test_what_is_wrong_with_a_shard_is_said(tmp_path: Path) -> None:
    entry = write_shard(tmp_path / "a.tar", _clips(1).items())[0]
    with pytest.raises(TimbreflowError, match="holds?.* the clip x twice"):
        write_shard(tmp_path / "b.tar", [("x", b"1"), ("x", b"2")])
    assert not (tmp_path / "b.tar").exists()
    with pytest.raises(TimbreflowError, match="16000 Hz, not 44100"):
        AudioShards(tmp_path, sample_rate=44100).read("a.tar", entry.offset, entry.nbytes)
    with pytest.raises(TimbreflowError, match="cannot be read as sound"):
        AudioShards(tmp_path).read("a.tar", 0, entry.nbytes)
    with pytest.raises(TimbreflowError, match="shorter than its manifest says"):
        AudioShards(tmp_path).read("a.tar", entry.offset, 10**6)
    with pytest.raises(TimbreflowError, match="none.tar is missing"):
        AudioShards(tmp_path).read("none.tar", 0, 10)
