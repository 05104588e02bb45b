"""Triples on the fly are those that the stages would store, bit for bit, whoever loads them."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests import small
from tests.sharded import run_all
from tests.stages.test_render_triples import CONFIG, layout_with_notes
from timbreflow.data.audio_triples import AudioTripleDataset
from timbreflow.data.mels import ExtractConfig, read_statistics
from timbreflow.data.rendered_triples import RenderedTriples
from timbreflow.data.renderer import RenderInputs
from timbreflow.data.sampling import make_loader
from timbreflow.data.triples import Pairs, TripleBatch, TripleDataset
from timbreflow.rendering.config import RenderConfig, TripleCounts
from timbreflow.stages import extract_mels, render_triples
from timbreflow.stages.layout import Layout

FEW = dataclasses.replace(CONFIG, triples=TripleCounts(train=6, validation=1, test=1, test_seen=1))


def stored(root: Path, config: RenderConfig, storage: Literal["float16", "uint8"] = "float16") -> Layout:
    layout = layout_with_notes(root)
    run_all(render_triples, config, layout=layout)
    run_all(extract_mels, ExtractConfig(batch_size=4, storage=storage), small.MELS, layout=layout)
    return layout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return stored(tmp_path_factory.mktemp("stored"), FEW)


def online_triples(
    layout: Layout, count: int, *, config: RenderConfig = FEW, pairs: Pairs = "triples", sound: bool = False
) -> RenderedTriples:
    normalizer = None if sound else read_statistics(layout.mels)[0]
    quantization = None if sound else TripleDataset(layout.mels, layout.audio, split="train").quantization
    inputs = RenderInputs(config, layout.notes, layout.soundfonts)
    return RenderedTriples(
        inputs, small.MELS, normalizer, quantization=quantization, split="train", count=count, pairs=pairs
    )


def assert_equal(one: TripleBatch, other: TripleBatch) -> None:
    for name in ("content", "style", "target", "content_roll"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_eight_bits_too(tmp_path: Path) -> None:
    layout = stored(tmp_path, FEW, "uint8")
    from_disk, rendered = TripleDataset(layout.mels, layout.audio, split="train"), online_triples(layout, 6)
    assert from_disk.quantization is not None
    for number in range(6):
        assert_equal(rendered[number], from_disk[number])


@pytest.mark.parametrize("pairs", ["triples", "mixed", "self_supervised"])
def test_the_first_triples_are_those_of_the_stages(layout: Layout, pairs: Pairs) -> None:
    from_disk = TripleDataset(layout.mels, layout.audio, split="train", pairs=pairs)
    rendered = online_triples(layout, 6, pairs=pairs)
    assert len(rendered) == len(from_disk) == 6
    for number in range(6):
        assert_equal(rendered[number], from_disk[number])


def test_sound_is_that_of_the_stage(layout: Layout) -> None:
    from_disk = AudioTripleDataset(layout.audio, small.MELS, split="train")
    rendered = online_triples(layout, 6, sound=True)
    for number in range(6):
        assert_equal(rendered[number], from_disk[number])


def test_the_four_triples_of_a_square_are_those_of_the_stages(tmp_path: Path) -> None:
    config = dataclasses.replace(FEW, complete_squares=True, triples=dataclasses.replace(FEW.triples, train=2))
    layout = stored(tmp_path, config)
    from_disk = TripleDataset(layout.mels, layout.audio, split="train")
    rendered = online_triples(layout, 2, config=config)
    assert len(rendered) == len(from_disk) == 8
    for number in range(8):
        assert_equal(rendered[number], from_disk[number])


def test_timbres_have_numbers_of_their_own(layout: Layout) -> None:
    from_disk = TripleDataset(layout.mels, layout.audio, split="train")
    rendered = online_triples(layout, 6)
    pairs = {(int(rendered[number].timbre), int(from_disk[number].timbre)) for number in range(6)}
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def test_there_are_more_triples_than_were_stored(layout: Layout) -> None:
    more = online_triples(layout, 100)
    assert not torch.equal(more[99].content, more[5].content)
    with pytest.raises(IndexError):
        more[100]


def test_loader_workers_change_nothing(layout: Layout) -> None:
    dataset = online_triples(layout, 20)
    streams = []
    for workers in (0, 2):
        loader = iter(make_loader(dataset, 3, seed=5, workers=workers, start_step=2, start_method="spawn"))
        streams.append([next(loader) for _ in range(4)])
    for one, other in zip(*streams, strict=True):
        assert_equal(one, other)
        assert torch.equal(one.timbre, other.timbre)
