"""The order in which training sees its examples: a function of the seed and the step alone."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import torch
from torch.utils.data import DataLoader, Sampler

from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash
from timbreflow.parallel import part


class Examples(Protocol):
    """What make_loader needs of a dataset: length, items, and how items become a batch."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> object:
        """One example."""

    def collate(self, items: list[Any]) -> object:
        """A batch of examples."""


class StepSampler(Sampler[list[int]]):
    """Endless batches of shuffled indices that can begin at any step.

    The stream is one seeded permutation of 0..n-1 after the other; step k takes places k * batch_size and on.
    So every example comes once an epoch, no batch is short, and a resumed run sees what an unbroken one sees.

    Args:
        n: number of examples.
        batch_size: indices a batch; may exceed n.
        seed: whole number.
        start_step: first step to give.
        part: places of each batch that are given, where several processes share it.

    Raises:
        TimbreflowError: there are no examples.
    """

    def __init__(self, n: int, batch_size: int, seed: int, start_step: int = 0, *, part: slice = slice(None)) -> None:
        if n < 1 or batch_size < 1:
            raise TimbreflowError(f"{n} examples cannot be put in batches of {batch_size}; render more triples.")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.part = part

    def __iter__(self) -> Iterator[list[int]]:
        place = self.start_step * self.batch_size
        epoch, order = -1, torch.empty(0)
        while True:
            batch: list[int] = []
            while len(batch) < self.batch_size:
                if place // self.n != epoch:
                    epoch = place // self.n
                    # A signed 64-bit seed is what manual_seed takes.
                    generator = torch.Generator().manual_seed(stable_hash("order", self.seed, epoch) >> 1)
                    order = torch.randperm(self.n, generator=generator)
                begin = place % self.n
                end = min(self.n, begin + self.batch_size - len(batch))
                batch += order[begin:end].tolist()
                place += end - begin
            yield batch[self.part]


class ReadAhead:
    """Reads the next batches in a thread while this one is used, in the same order.

    Reading stored mels is copying, which releases Python's lock; a loader process would have to pickle them too.

    Args:
        batches: what is read; each pass starts a thread, which ends with the pass or when it is stopped.
        depth: batches that are read ahead at most.
    """

    def __init__(self, batches: Iterable[Any], depth: int = 3) -> None:
        self._batches = batches
        self._depth = depth

    def __iter__(self) -> Iterator[Any]:
        batches, end = iter(self._batches), object()
        reader = ThreadPoolExecutor(1, "read-ahead")
        try:
            ahead = deque(reader.submit(next, batches, end) for _ in range(self._depth))
            while (batch := ahead.popleft().result()) is not end:
                ahead.append(reader.submit(next, batches, end))
                yield batch
        finally:
            reader.shutdown(cancel_futures=True)


def make_loader(
    dataset: Examples,
    batch_size: int,
    *,
    seed: int,
    workers: int = 0,
    shuffle: bool = True,
    device: torch.device | str = "cpu",
    start_step: int = 0,
    start_method: Literal["fork", "spawn"] | None = None,
) -> Iterable[Any]:
    """Batches of a dataset of triples.

    Args:
        dataset: a TripleDataset, AudioTripleDataset or RenderedTriples.
        batch_size: B; where several processes train together, each is given its part of a shuffled batch.
        seed: decides the order, with the step alone.
        workers: loader processes; 0 loads in a thread of this one, which is fast enough for stored mels.
        shuffle: True gives endless shuffled batches from start_step; False one ordered pass, last batch short.
        device: where batches go; on cuda they are put into pinned memory.
        start_step: step to begin with when training resumes.
        start_method: of the loader processes; None is the platform's own. Those that read Parquet must be spawned,
            since pyarrow's threads do not survive a fork.

    Returns:
        A loader of TripleBatch on the CPU.

    Raises:
        TimbreflowError: the processes cannot share a batch equally.
    """
    common: dict[str, Any] = {
        "num_workers": workers,
        "collate_fn": dataset.collate,
        "pin_memory": torch.device(device).type == "cuda",
        "persistent_workers": workers > 0,
        "multiprocessing_context": start_method if workers else None,
        # Its own, or opening the loader would take a number from the stream that training draws from.
        "generator": torch.Generator().manual_seed(seed),
    }
    if not shuffle:
        return DataLoader(dataset, batch_size=batch_size, **common)  # type: ignore[arg-type]  # torch asks for its base
    sampler = StepSampler(len(dataset), batch_size, seed, start_step, part=part(batch_size))
    loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=sampler, **common)  # type: ignore[arg-type]
    return loader if workers else ReadAhead(loader)
