"""Triplets on real shards: right timbres, numbered draws, bounded cache; coefficients equal librosa's."""

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch

from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import MANIFEST_SCHEMA, write_manifest
from timbreflow.data.shards import write_shard
from timbreflow.errors import TimbreflowError
from timbreflow.models.timbre_metric import TimbreCoefficients
from timbreflow.training.triplets import Triplets

RATE = 16_000
TIMBRES = {"buzz": 40.0, "flute": 2.0, "reed": 10.0}


def tone(seed: int, timbre: str) -> np.ndarray:
    """Half a second of decaying harmonics; the timbre is how many there are."""
    random = np.random.default_rng(seed)
    time = np.arange(RATE // 2) / RATE
    pitch = 110 * 2 ** (random.integers(0, 24) / 12)
    numbers = np.arange(1, max(2, int(7000 / pitch)))
    gains = np.exp(-numbers / TIMBRES[timbre])
    wave = (gains[:, None] * np.sin(2 * np.pi * pitch * numbers[:, None] * time)).sum(0)
    return np.asarray(0.2 * wave / np.abs(wave).max() + 1e-3 * random.standard_normal(len(time)), dtype=np.float32)


def write_triples(root: Path, *, n: int, timbres: tuple[str, ...], split: str = "train") -> None:
    rows: list[dict[str, Any]] = []
    for triple in range(n):
        own, other = timbres[triple % len(timbres)], timbres[(triple + 1) % len(timbres)]
        for role, timbre, notes in (("content", other, triple), ("style", own, triple + 500), ("target", own, triple)):
            rows.append({"clip_id": f"{split}{triple:03d}{role}", "role": role, "timbre": timbre, "notes": notes})
    shard = f"{split}/shard-00000.tar"
    clips = [(row["clip_id"], encode_flac(tone(row["notes"], row["timbre"]), RATE)) for row in rows]
    places = {entry.clip_id: entry for entry in write_shard(root / shard, clips)}
    empty = {field.name: "" if str(field.type) == "string" else 0 for field in MANIFEST_SCHEMA}
    write_manifest(
        root,
        [
            {
                **empty,
                "clip_id": row["clip_id"],
                "triple_id": row["clip_id"].removesuffix(row["role"]),
                "split": split,
                "role": row["role"],
                "shard": shard,
                "offset": places[row["clip_id"]].offset,
                "nbytes": places[row["clip_id"]].nbytes,
                "timbre_id": row["timbre"],
                "n_samples": RATE // 2,
            }
            for row in rows
        ],
    )


def open_triplets(root: Path, *, hard: float = 0.5, cache_mb: int = 8, seed: int = 0) -> Triplets:
    return Triplets(root, split="train", sample_rate=RATE, hard_negatives=hard, seed=seed, cache_mb=cache_mb)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audio")
    write_triples(root, n=6, timbres=("buzz", "flute", "reed"))
    return root


def test_positive_shares_the_timbre_and_the_negative_does_not(audio: Path) -> None:
    triplets = open_triplets(audio)
    timbre, role = triplets._timbres, ["content", "style", "target"] * 6
    own_content = 0
    for number in range(len(triplets)):
        anchor, positive, negative = triplets.clips(number)
        assert timbre[anchor] == timbre[positive] != timbre[negative]
        assert {role[anchor], role[positive]} == {"style", "target"} and anchor // 3 == positive // 3
        own_content += negative // 3 == anchor // 3
    assert 0.4 < own_content / len(triplets) < 0.75


def test_batch_depends_on_seed_and_number_only(audio: Path) -> None:
    triplets = open_triplets(audio)
    stream = triplets.batches(0, batch_size=4)
    batches = [next(stream) for _ in range(5)]
    again = next(open_triplets(audio).batches(4, batch_size=4))
    assert torch.equal(again.negative, batches[4].negative) and torch.equal(again.anchor, batches[4].anchor)
    other = next(open_triplets(audio, seed=1).batches(4, batch_size=4))
    assert not torch.equal(other.anchor, batches[4].anchor)


def test_cache_is_bounded_and_changes_nothing(audio: Path) -> None:
    wanted = open_triplets(audio, cache_mb=0).batch(list(range(18)))
    for room, kept in ((0, 0), (3 * wanted.anchor[0].nbytes + 1, 3), (2**23, 18)):
        triplets = open_triplets(audio)
        triplets._room = room
        for _ in range(2):
            found = triplets.batch(list(range(18)))
            assert torch.equal(found.anchor, wanted.anchor)
            assert torch.equal(found.negative, wanted.negative)
        assert len(triplets._slots) == len(triplets._cache) == kept


def test_one_timbre_makes_no_triplets(tmp_path: Path) -> None:
    write_triples(tmp_path, n=2, timbres=("buzz",))
    with pytest.raises(TimbreflowError, match="one timbre only"):
        open_triplets(tmp_path)


def test_coefficients_equal_librosa_whatever_the_batch() -> None:
    sounds = np.stack([tone(1, "buzz"), 1e-3 * tone(2, "flute"), np.zeros(RATE // 2, np.float32)])
    found = TimbreCoefficients()(torch.from_numpy(sounds)).numpy()
    assert np.isfinite(found).all()
    for sound, coefficients in zip(sounds[:2], found[:2], strict=True):
        scaled = sound / np.sqrt(np.mean(sound**2))
        expected = librosa.feature.mfcc(y=scaled, sr=RATE, n_mfcc=13, hop_length=500)[1:]
        assert np.abs(coefficients - expected).max() < 0.05
