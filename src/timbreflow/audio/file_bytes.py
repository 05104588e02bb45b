"""The bytes of an open file: looked at anywhere in constant memory, or read with some of them replaced."""

import io
import os
from bisect import bisect_right
from typing import TYPE_CHECKING, BinaryIO, Literal

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK = 1 << 18

Part = bytes | tuple[int, int]
"""Bytes of our own, or [start, stop) of the file."""


class FileBytes:
    """Random access: `read(position, n)` gives n bytes of the file, fewer at its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._start, self._block = 0, b""

    def __call__(self, position: int, n: int) -> bytes:
        """The n bytes at a position."""
        start = position - self._start
        if start >= 0 and start + n <= len(self._block):
            return self._block[start : start + n]
        self._file.seek(position)
        self._start, self._block = position, self._file.read(max(n, _BLOCK))
        return self._block[:n]

    def number(self, position: int, n: int, order: Literal["big", "little"]) -> int:
        """The unsigned integer in n bytes at a position."""
        return int.from_bytes(self(position, n), order)

    def find(self, position: int, *marks: bytes) -> int:
        """Where the first of some marks stands from a position on; the size of the file where none does."""
        longest = max(map(len, marks))
        while position < self.size:
            block = self(position, 1 << 16)
            if found := [place for mark in marks if (place := block.find(mark)) >= 0]:
                return position + min(found)
            position += max(1, len(block) - longest + 1)
        return self.size


class Stitched(io.RawIOBase):
    """Parts of a file, and bytes of our own, as one file to read."""

    def __init__(self, file: BinaryIO, parts: tuple[Part, ...]) -> None:
        self._file = file
        self._parts = parts
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + (len(part) if isinstance(part, bytes) else part[1] - part[0]))
        self._position = 0

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, which may lie behind the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer as far as there are bytes."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._position < self._starts[-1]:
            number = bisect_right(self._starts, self._position) - 1
            part, offset = self._parts[number], self._position - self._starts[number]
            n = min(len(view) - filled, self._starts[number + 1] - self._position)
            if isinstance(part, bytes):
                data = part[offset : offset + n]
            else:
                self._file.seek(part[0] + offset)
                data = self._file.read(n)
            if not data:
                break
            view[filled : filled + len(data)] = data
            filled += len(data)
            self._position += len(data)
        return filled
