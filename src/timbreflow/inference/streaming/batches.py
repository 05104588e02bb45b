"""Transfers one after the other whose chunks fill up each other's batches.

A batch holds chunks of one transfer while that has enough of them; its last one is filled up with the first chunks of
the transfers behind it. Many short recordings are so decoded several at a time; at most one batch waits in memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from timbreflow.errors import TimbreflowError
from timbreflow.inference.synthesis import DecodeRequest


@dataclass(eq=False)
class TransferStream:
    """One transfer that is being decoded.

    Attributes:
        chunks: [n] float32 each, what is left of the content.
        request: how it is to sound; None where the transfer failed before it began.
        made: sound of chunks that were decoded with those of an earlier transfer, [n] each.
        failed: why it cannot go on; raised when its own turn comes.
    """

    chunks: Iterator[np.ndarray]
    request: DecodeRequest | None
    made: deque[np.ndarray] = field(default_factory=deque)
    failed: TimbreflowError | None = None
    _next: np.ndarray | None = None
    _begun: bool = False

    def peek(self) -> np.ndarray | None:
        """The next chunk, which stays; None behind the last, or where the content cannot be read on."""
        if self._next is None and self.failed is None:
            try:
                self._next = next(self.chunks, None)
            except TimbreflowError as error:
                self.failed = error
        return self._next

    def take(self) -> tuple[np.ndarray, DecodeRequest]:
        """The chunk that `peek` showed, and how it is to sound."""
        chunk, self._next = self._next, None
        assert chunk is not None
        assert self.request is not None
        request, self._begun = replace(self.request, continued=(self._begun,)), True
        return chunk, request


class StreamBatches:
    """Decodes streams in batches.

    Args:
        decode: chunks [n] of one length, and the request of each, to their sound [n].
        batch_size: chunks in a batch.
        coming: further streams, opened when there is room for them.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[np.ndarray], Sequence[DecodeRequest]], Iterable[np.ndarray]],
        *,
        batch_size: int,
        coming: Iterable[TransferStream] = (),
    ) -> None:
        self._decode = decode
        self._batch_size = batch_size
        self._coming = iter(coming)
        self._open: deque[TransferStream] = deque()

    def __iter__(self) -> Iterator[TransferStream]:
        """The streams in their order; each must be run to its end before the next."""
        while self._open or self._opened():
            yield self._open.popleft()

    def run(self, stream: TransferStream) -> Iterator[np.ndarray]:
        """Sound of the chunks of a stream, [n] each.

        Raises:
            TimbreflowError: the content cannot be read to its end, or not be decoded.
        """
        while stream.made or (stream.failed is None and self._fill(stream)):
            yield stream.made.popleft()
        if stream.failed is not None:
            raise stream.failed

    def _opened(self) -> bool:
        stream = next(self._coming, None)
        if stream is not None:
            self._open.append(stream)
        return stream is not None

    def _fill(self, first: TransferStream) -> bool:
        """Decode a batch that begins with chunks of one stream; whether there were any."""
        batch = [(first, *first.take()) for _ in range(self._batch_size) if first.peek() is not None]
        if not batch:
            return False
        place = 0
        while len(batch) < self._batch_size and (place < len(self._open) or self._opened()):
            stream = self._open[place]
            chunk = stream.peek()
            if chunk is None or stream.request is None:
                place += 1
            elif len(chunk) != len(batch[0][1]) or first.request is None or not stream.request.joins(first.request):
                break
            else:
                batch.append((stream, *stream.take()))
        try:
            self._make(batch)
        except TimbreflowError:
            for stream in dict.fromkeys(stream for stream, *_ in batch):  # only what is at fault may fail
                try:
                    self._make([each for each in batch if each[0] is stream])
                except TimbreflowError as error:
                    stream.failed = error
        return bool(first.made)

    def _make(self, batch: list[tuple[TransferStream, np.ndarray, DecodeRequest]]) -> None:
        streams, chunks, requests = zip(*batch, strict=True)
        for stream, sound in zip(streams, self._decode(chunks, requests), strict=True):
            stream.made.append(sound)
