"""Pairs for another program: what is written is what the set holds, and a folder is written whole or not at all."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.frozen import freeze
from tests.testsets.test_evaluate import RATE, SECONDS, TRIPLES, write_set
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips
from timbreflow.testsets.export import export
from timbreflow.testsets.frozen import ReleasedSet, read_released


@pytest.fixture
def released(tmp_path: Path) -> ReleasedSet:
    write_set(tmp_path / "data" / "testsets" / "real", "real", seed=3)
    freeze(tmp_path, "real")
    return read_released(tmp_path / "released" / "testsets", "real")


def test_pairs_are_the_clips_of_the_set_sample_for_sample(released: ReleasedSet, tmp_path: Path) -> None:
    built, out = tmp_path / "data" / "testsets" / "real", tmp_path / "pairs"
    assert export(released, built=built, out=out) == TRIPLES
    with open(out / "pairs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (batch,) = EvaluationClips(built, "real", sample_rate=RATE, max_triples=0).batches(TRIPLES)
    assert [row["id"] for row in rows] == batch.triple_ids
    for number, row in enumerate(rows):
        for role in ("content", "style"):
            sound, rate = soundfile.read(out / row[role], dtype="float32")
            assert rate == RATE and np.array_equal(sound, getattr(batch, role)[number])
    assert sorted(path.name for path in out.iterdir()) == ["README.txt", "content", "pairs.csv", "style"]
    words = (out / "README.txt").read_text(encoding="utf-8")
    assert "timbreflow evaluate --testset real --outputs" in words
    assert f"{SECONDS:g} s" in words and released.checksums.digest in words


def test_no_folder_is_overwritten_and_no_other_set_is_exported(released: ReleasedSet, tmp_path: Path) -> None:
    built = tmp_path / "data" / "testsets" / "real"
    with pytest.raises(TimbreflowError, match="not an empty folder"):
        export(released, built=built, out=built)
    (built / "real" / "shard-00000.tar").write_bytes(b"other")
    with pytest.raises(TimbreflowError, match="timbreflow testset build real"):
        export(released, built=built, out=tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()
