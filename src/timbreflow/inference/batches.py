"""Transfers one after the other whose chunks fill up each other's batches.

A batch holds chunks of one transfer while that has enough of them; its last one is filled up with the first chunks of
the transfers behind it. Many short recordings are so decoded several at a time; what lies ready is at most one batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from timbreflow.errors import TimbreflowError
from timbreflow.inference.decoding import Voice


@dataclass(eq=False)
class Lane:
    """One transfer on its way.

    Attributes:
        chunks: [n] float32 each, what is left of the content.
        voice: what it is to sound like; None where it has failed before it began.
        made: sound of chunks that were decoded with those of a transfer before, [n] each.
        failed: why it cannot go on; told when its own turn comes.
    """

    chunks: Iterator[np.ndarray]
    voice: Voice | None
    made: deque[np.ndarray] = field(default_factory=deque)
    failed: TimbreflowError | None = None
    _next: np.ndarray | None = None

    def peek(self) -> np.ndarray | None:
        """The next chunk, which stays; None behind the last, or where the content cannot be read on."""
        if self._next is None and self.failed is None:
            try:
                self._next = next(self.chunks, None)
            except TimbreflowError as error:
                self.failed = error
        return self._next

    def take(self) -> np.ndarray:
        """The chunk that `peek` showed."""
        chunk, self._next = self._next, None
        assert chunk is not None
        return chunk


class Lanes:
    """Decodes lanes in batches.

    Args:
        decode: chunks [n] of one length, and the voice of each, to their sound [n].
        at_once: chunks in a batch.
        coming: further lanes, opened when there is room for them.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[np.ndarray], Sequence[Voice]], Iterable[np.ndarray]],
        *,
        at_once: int,
        coming: Iterable[Lane] = (),
    ) -> None:
        self._decode = decode
        self._at_once = at_once
        self._coming = iter(coming)
        self._open: deque[Lane] = deque()

    def __iter__(self) -> Iterator[Lane]:
        """The lanes in their order; each must be run to its end before the next."""
        while self._open or self._opened():
            yield self._open.popleft()

    def run(self, lane: Lane) -> Iterator[np.ndarray]:
        """Sound of the chunks of a lane, [n] each.

        Raises:
            TimbreflowError: the content cannot be read to its end, or not be decoded.
        """
        while lane.made or (lane.failed is None and self._fill(lane)):
            yield lane.made.popleft()
        if lane.failed is not None:
            raise lane.failed

    def _opened(self) -> bool:
        lane = next(self._coming, None)
        if lane is not None:
            self._open.append(lane)
        return lane is not None

    def _fill(self, first: Lane) -> bool:
        """Decode a batch that begins with chunks of one lane; whether there were any."""
        batch = [(first, first.take()) for _ in range(self._at_once) if first.peek() is not None]
        if not batch:
            return False
        place = 0
        while len(batch) < self._at_once and (place < len(self._open) or self._opened()):
            lane = self._open[place]
            chunk = lane.peek()
            if chunk is None or lane.voice is None:
                place += 1
            elif len(chunk) != len(batch[0][1]) or first.voice is None or not lane.voice.joins(first.voice):
                break
            else:
                batch.append((lane, lane.take()))
        try:
            self._make(batch)
        except TimbreflowError:
            for lane in dict.fromkeys(lane for lane, _ in batch):  # only what is at fault may fail
                try:
                    self._make([(one, chunk) for one, chunk in batch if one is lane])
                except TimbreflowError as error:
                    lane.failed = error
        return bool(first.made)

    def _make(self, batch: list[tuple[Lane, np.ndarray]]) -> None:
        voices = [lane.voice for lane, _ in batch if lane.voice is not None]
        for (lane, _), sound in zip(batch, self._decode([chunk for _, chunk in batch], voices), strict=True):
            lane.made.append(sound)
