"""The order of examples is a function of seed and step."""

import threading
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.data.tiny_audio import FEATURES, write_tiny_audio
from timbreflow.data.audio_triples import AudioTripleDataset
from timbreflow.data.sampling import ReadAhead, StepSampler, make_loader
from timbreflow.errors import TimbreflowError


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 10**9), st.integers(0, 30))
def test_a_resumed_order_is_the_unbroken_one(n: int, batch_size: int, seed: int, step: int) -> None:
    unbroken = list(islice(StepSampler(n, batch_size, seed), step + 5))
    assert list(islice(StepSampler(n, batch_size, seed, start_step=step), 5)) == unbroken[step:]
    assert all(len(batch) == batch_size for batch in unbroken)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 10**9))
def test_every_epoch_holds_every_example_once(n: int, batch_size: int, seed: int) -> None:
    batches = list(islice(StepSampler(n, batch_size, seed), 3 * n // batch_size + 1))
    stream = [index for batch in batches for index in batch]
    for start in range(0, len(stream) - n + 1, n):
        assert sorted(stream[start : start + n]) == list(range(n))


def test_seeds_and_epochs_differ() -> None:
    first, second = islice(StepSampler(50, 50, 1), 2)
    assert first != second
    assert next(iter(StepSampler(50, 50, 2))) != first
    torch.manual_seed(0)
    assert next(iter(StepSampler(50, 50, 1))) == first, "the global generator has no say"


def test_nothing_to_sample_is_an_error() -> None:
    for n, batch_size in ((0, 4), (4, 0)):
        with pytest.raises(TimbreflowError, match="cannot be put in batches"):
            StepSampler(n, batch_size, 0)


def test_loaders_give_the_same_batches_in_this_process_and_in_workers(tmp_path: Path) -> None:
    write_tiny_audio(tmp_path)
    dataset = AudioTripleDataset(tmp_path, FEATURES, split="train")
    here, there = (make_loader(dataset, 3, seed=4, workers=workers, start_step=2) for workers in (0, 2))
    for first, second in zip(islice(here, 3), islice(there, 3), strict=True):
        assert first.content.shape == (3, 8000)
        assert torch.equal(first.content, second.content)
        assert torch.equal(first.timbre, second.timbre)


def test_an_ordered_pass_ends_with_the_short_batch(tmp_path: Path) -> None:
    write_tiny_audio(tmp_path)
    dataset = AudioTripleDataset(tmp_path, FEATURES, split="train")
    batches = list(make_loader(dataset, 3, seed=0, shuffle=False))
    assert [len(batch) for batch in batches] == [3, 1]
    assert torch.equal(batches[1].target[0], dataset[3].target)


def test_batches_are_read_while_others_are_used_and_no_further_than_asked() -> None:
    begun: list[int] = []

    def batches() -> Iterator[int]:
        for number in count():
            begun.append(number)
            yield number

    stream = iter(ReadAhead(batches(), depth=2))
    assert [next(stream), next(stream)] == [0, 1]
    deadline = time.monotonic() + 5
    while len(begun) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert begun == [0, 1, 2, 3], "two used and two ready"


def test_a_pass_that_is_given_up_leaves_no_thread() -> None:
    before = threading.active_count()
    stream = iter(ReadAhead(count()))
    next(stream)
    assert threading.active_count() == before + 1
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_error_of_the_reader_comes_where_its_batch_was_due() -> None:
    def batches() -> Iterator[int]:
        yield 1
        raise TimbreflowError("the shard is gone")

    stream = iter(ReadAhead(batches()))
    assert next(stream) == 1
    with pytest.raises(TimbreflowError, match="the shard is gone"):
        next(stream)
    assert list(ReadAhead([1, 2, 3])) == [1, 2, 3]
