"""Triples in the memory of the device: the same batches as from the loader."""

from itertools import islice
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.data.tiny_audio import FEATURES, write_tiny_audio
from tests.sharded import run_all
from timbreflow.data.mels import ExtractConfig
from timbreflow.data.sampling import make_loader
from timbreflow.data.triples import Pairs, TripleDataset
from timbreflow.errors import TimbreflowError
from timbreflow.stages import extract_mels
from timbreflow.stages.layout import Layout
from timbreflow.training.data import DeviceTriples, may_preload

CPU = torch.device("cpu")


@pytest.mark.parametrize("storage", ["float16", "uint8"])
@pytest.mark.parametrize("pairs", ["triples", "mixed"])
def test_batches_are_those_of_the_loader(storage: Literal["float16", "uint8"], pairs: Pairs, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_tiny_audio(layout.audio)
    run_all(extract_mels, ExtractConfig(batch_size=4, storage=storage), FEATURES, layout=layout)
    dataset = TripleDataset(layout.mels, layout.audio, split="train", pairs=pairs)
    loaded = make_loader(dataset, 3, seed=5, start_step=2)
    preloaded = DeviceTriples(dataset, CPU).batches(3, 2, seed=5)
    for one, other in islice(zip(loaded, preloaded, strict=False), 4):
        for name, tensor in vars(one).items():
            assert torch.equal(tensor, getattr(other, name)), name


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset: TripleDataset = None  # type: ignore[assignment]  # not looked at beside a processor
    monkeypatch.delenv("TIMBREFLOW_PRELOAD", raising=False)
    assert not may_preload(dataset, CPU)
    monkeypatch.setenv("TIMBREFLOW_PRELOAD", "1")
    assert may_preload(dataset, CPU)
    monkeypatch.setenv("TIMBREFLOW_PRELOAD", "yes")
    with pytest.raises(TimbreflowError, match="TIMBREFLOW_PRELOAD is 'yes'; set it to auto, 1 or 0"):
        may_preload(dataset, CPU)
