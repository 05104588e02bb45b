"""What a triple is: whose notes, whose timbre, and a roll that lies where the sound lies."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.tiny_audio import COUNTS, FEATURES, write_tiny_audio
from tests.sharded import run_all
from timbreflow.audio.features import FeatureExtractor
from timbreflow.data.audio_triples import AudioTripleDataset, fit_normalizer, to_features
from timbreflow.data.manifest import read_manifest
from timbreflow.data.mels import ExtractConfig, MelShards, read_mel_index
from timbreflow.data.quantization import RANGE
from timbreflow.data.sampling import make_loader
from timbreflow.data.triples import TripleBatch, TripleDataset, crop, is_self_supervised
from timbreflow.errors import TimbreflowError
from timbreflow.stages import extract_mels
from timbreflow.stages.layout import Layout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A tiny corpus with its features."""
    layout = Layout(tmp_path_factory.mktemp("corpus"))
    write_tiny_audio(layout.audio)
    run_all(extract_mels, ExtractConfig(batch_size=4, storage="float16"), FEATURES, layout=layout)
    return layout


def test_items_have_the_promised_shapes_and_are_normalised(layout: Layout) -> None:
    dataset = TripleDataset(layout.mels, layout.audio, split="train")
    assert len(dataset) == COUNTS["train"]
    batch = next(iter(make_loader(dataset, 4, seed=0, shuffle=False)))
    for features in (batch.content, batch.style, batch.target):
        assert features.shape == (4, 32, 64)
        assert features.dtype == torch.float32
    assert batch.content_roll.shape == (4, 128, 64)
    assert batch.content_roll.dtype == torch.bool
    assert batch.timbre.dtype == torch.int64
    everything = torch.cat([batch.content, batch.style, batch.target]).transpose(0, 1).flatten(1)
    assert everything.mean(dim=1).abs().max() < 1e-2
    assert (everything.std(dim=1) - 1).abs().max() < 1e-2


@pytest.mark.parametrize("split", COUNTS)
def test_triples_and_self_supervised_pairs_differ_in_the_content_alone(layout: Layout, split: str) -> None:
    triples = TripleDataset(layout.mels, layout.audio, split=split, pairs="triples")
    pairs = TripleDataset(layout.mels, layout.audio, split=split, pairs="self_supervised")
    assert triples.triple_ids == pairs.triple_ids
    for triple, pair in zip(map(triples.__getitem__, range(2)), map(pairs.__getitem__, range(2)), strict=True):
        assert torch.equal(pair.content, pair.target)
        assert not torch.equal(triple.content, triple.target)
        for name in ("style", "target", "content_roll", "timbre"):
            assert torch.equal(getattr(triple, name), getattr(pair, name))


def test_a_batch_is_its_items_with_the_bits_of_plain_arithmetic(layout: Layout) -> None:
    dataset = TripleDataset(layout.mels, layout.audio, split="train", pairs="mixed")
    items = [3, 0, 2, 0]
    batch = dataset.__getitems__(items)
    for name, joined in vars(batch).items():
        assert torch.equal(joined, torch.stack([getattr(dataset[item], name) for item in items]))
    index, shards = read_mel_index(layout.mels), MelShards(layout.mels)
    for number, item in enumerate(items):
        place = index.iloc[dataset.positions["target"].iloc[item]]
        raw = torch.from_numpy(np.array(shards.read(place["shard"], int(place["row"]))))
        assert torch.equal(batch.target[number], dataset.normalizer.normalize(raw.float()))


def test_eight_bits_read_as_nearly_the_same_features(layout: Layout, tmp_path: Path) -> None:
    other = Layout(tmp_path)
    shutil.copytree(layout.audio, other.audio)
    run_all(extract_mels, ExtractConfig(batch_size=4, storage="uint8"), FEATURES, layout=other)
    assert MelShards(other.mels).shard("train/shard-00000.npy").dtype == np.uint8
    half, eight = (TripleDataset(place.mels, place.audio, split="train") for place in (layout, other))
    assert half.triple_ids == eight.triple_ids
    step = RANGE / 255
    for item in range(len(half)):
        raw = [dataset.normalizer.denormalize(dataset[item].style) for dataset in (half, eight)]
        assert (raw[0] - raw[1]).abs().max() <= step / 2 + 0.01  # half precision is rounded too
        assert torch.equal(half[item].content_roll, eight[item].content_roll)


def test_mixed_pairs_are_half_of_each_and_always_the_same_ones() -> None:
    chosen = [is_self_supervised(f"train-{number:07d}", "mixed") for number in range(2000)]
    assert 0.45 < sum(chosen) / 2000 < 0.55
    assert chosen == [is_self_supervised(f"train-{number:07d}", "mixed") for number in range(2000)]
    with pytest.raises(TimbreflowError, match="choose one of triples, self_supervised, mixed"):
        is_self_supervised("x", "both")  # type: ignore[arg-type]


def test_style_and_target_share_the_timbre_that_the_index_names(layout: Layout) -> None:
    dataset = TripleDataset(layout.mels, layout.audio, split="train")
    clips = read_manifest(layout.audio).set_index("clip_id")
    for item, triple_id in enumerate(dataset.triple_ids):
        index = int(dataset[item].timbre)
        for role in ("style", "target"):
            assert dataset.timbres[index] == clips.loc[f"{triple_id}-{role}", "timbre_id"]
        assert dataset.timbres[index] != clips.loc[f"{triple_id}-content", "timbre_id"]


def test_the_roll_lies_where_the_sound_lies(layout: Layout) -> None:
    """In each frame that begins a note, the band of its pitch is louder than it was two frames before."""
    dataset = AudioTripleDataset(layout.audio, FEATURES, split="train")
    extractor = FeatureExtractor(FEATURES)
    for item in range(len(dataset)):
        triple = dataset[item]
        onsets = triple.content_roll[:, 1:] & ~triple.content_roll[:, :-1]
        magnitude = extractor.magnitude(triple.target[None])[0]
        for pitch, frame in onsets.nonzero().tolist():
            frequency = 440 * 2 ** ((pitch - 69) / 12)
            power = magnitude[round(frequency / FEATURES.sample_rate * FEATURES.n_fft)]
            assert power[frame + 2 : frame + 6].max() > 2 * power[frame - 2], (item, pitch, frame)
        assert torch.equal(triple.content_roll.any(dim=0).float().diff().clamp_min(0).sum(), torch.tensor(3.0))


def test_features_from_sound_equal_stored_ones(layout: Layout) -> None:
    stored = TripleDataset(layout.mels, layout.audio, split="validation")
    sound = AudioTripleDataset(layout.audio, FEATURES, split="validation")
    assert sound.triple_ids == stored.triple_ids
    assert sound.timbres == stored.timbres
    made = to_features(sound.collate([sound[0], sound[1]]).to("cpu"), FeatureExtractor(FEATURES), stored.normalizer)
    kept = stored.collate([stored[0], stored[1]])
    assert isinstance(made, TripleBatch)
    for name in ("content", "style", "target"):
        assert (getattr(made, name) - getattr(kept, name)).abs().max() < 1e-2
    assert torch.equal(made.content_roll, kept.content_roll)
    assert torch.equal(made.timbre, kept.timbre)
    assert len(made) == 2


def test_statistics_fitted_to_all_triples_are_the_stored_ones(layout: Layout) -> None:
    stored = TripleDataset(layout.mels, layout.audio, split="train")
    sound = AudioTripleDataset(layout.audio, FEATURES, split="train")
    fitted = fit_normalizer(sound, FeatureExtractor(FEATURES), n_triples=100)
    assert (fitted.mean - stored.normalizer.mean).abs().max() < 1e-2
    assert (fitted.std / stored.normalizer.std).log().abs().max() < 1e-2
    part = fit_normalizer(sound, FeatureExtractor(FEATURES), n_triples=2)
    assert not torch.allclose(part.mean, fitted.mean)


def test_a_clip_without_notes_and_an_empty_split_are_named(layout: Layout, tmp_path: Path) -> None:
    write_tiny_audio(tmp_path / "audio", notes=lambda table: table[table["clip_id"] != "train-0000001-content"])
    dataset = TripleDataset(layout.mels, tmp_path / "audio", split="train")
    with pytest.raises(TimbreflowError, match="no notes for the clip train-0000001-content"):
        dataset[1]
    with pytest.raises(TimbreflowError, match="The split other holds no clips"):
        TripleDataset(layout.mels, layout.audio, split="other")
    with pytest.raises(TimbreflowError, match="statistics.json is missing"):
        TripleDataset(tmp_path / "none", layout.audio, split="train")


def test_a_crop_is_one_stretch_of_content_target_and_roll(layout: Layout) -> None:
    dataset = TripleDataset(layout.mels, layout.audio, split="train")
    whole = dataset.collate([dataset[0], dataset[1], dataset[2]])
    cut = crop(whole, 16, seed=3, number=7)
    assert torch.equal(cut.style, whole.style) and torch.equal(cut.timbre, whole.timbre)
    for clip in range(3):
        windows = whole.target[clip].unfold(1, 16, 1)  # [M, starts, 16]
        start = int((windows == cut.target[clip][:, None]).all(2).all(0).nonzero()[0])
        assert torch.equal(cut.content[clip], whole.content[clip][:, start : start + 16])
        assert torch.equal(cut.content_roll[clip], whole.content_roll[clip][:, start : start + 16])
    assert torch.equal(crop(whole, 16, seed=3, number=7).target, cut.target)
    assert not torch.equal(crop(whole, 16, seed=3, number=8).target, cut.target)
    assert crop(whole, 0, seed=3, number=7) is whole
