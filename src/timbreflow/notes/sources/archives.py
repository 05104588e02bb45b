"""The music files of folders and archives; archives are read as a stream and never unpacked, so links, absolute paths
and `..` in them do no harm.
"""

import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from isal import isal_zlib

from timbreflow.files import stable_hash
from timbreflow.notes.pieces import Reject
from timbreflow.notes.sources.files import Container, clean_text, is_music

_HEADER_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_MOST_HEADER_BYTES = 1_000_000
_GZIP = b"\x1f\x8b"
_BLOCK = 65_536
_GZIP_WINDOW = 31  # zlib's number for the largest window behind a gzip header

# What the readers of archives raise on damaged ones; zlib.error and lzma's derive from Exception alone.
_ARCHIVE_ERRORS: tuple[type[Exception], ...] = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    cast("type[Exception]", isal_zlib.error),
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Item:
    """One music file.

    Attributes:
        path: inside the source, such as `folder/archive.zip/song.mid`.
        data: its bytes, at most `max_bytes + 1` of them.
        size: its true size in bytes.
        reject: why it is not read, if so.
    """

    path: str
    data: bytes
    size: int
    reject: Reject | None = None


@dataclass(frozen=True)
class Share:
    """Which of the music files of a container are read; decided by number and name alone, so nobody lists it first.

    Attributes:
        part: of archives, the files are read whose number leaves remainder `part` by `parts`.
        parts: number of shares, at least 1.
        fraction: of all files, those whose stable hash of the path lies in this share of all hashes, 0 to 1.
    """

    part: int = 0
    parts: int = 1
    fraction: float = 1.0

    def holds(self, index: int, path: str) -> bool:
        """Whether file number `index`, with this path inside the source, is read."""
        if index % self.parts != self.part:
            return False
        return self.fraction >= 1 or stable_hash("sample", clean_text(path)) < self.fraction * 2**64


def passed_over(path: str, why: str = "") -> Item:
    """A file that is not read because it is no music, or no file."""
    return Item(path, b"", 0, Reject("passed_over", f"{why or 'files of its kind are not read'}."))


def read_items(container: Container, *, max_bytes: int, share: Share) -> Iterator[Item]:
    """The music files of a container, in its own order.

    What cannot be read comes as an item with an error; after damage in the middle of an archive, one such item stands
    for the rest.

    Args:
        container: from `containers`.
        max_bytes: larger files are cut after `max_bytes + 1` bytes (their true size is kept).
        share: which of its files.
    """
    n_read = 0
    try:
        for item in _shared_items(container, max_bytes, share):
            n_read += 1
            yield item
    except Exception as error:
        # Importing lzma for its error fails where Python was built without it.
        if not isinstance(error, _ARCHIVE_ERRORS) and type(error).__name__ != "LZMAError":
            raise
        where = "" if container.kind == "file" else f" after {n_read} files of this share"
        detail = f"it cannot be read{where} ({str(error) or type(error).__name__})."
        yield Item(container.label, b"", 0, Reject("broken", detail))


def _shared_items(container: Container, max_bytes: int, share: Share) -> Iterator[Item]:
    if container.kind == "zip":
        yield from _zip_items(container, max_bytes, share)
    elif container.kind == "tar":
        yield from _tar_items(container, max_bytes, share)
    elif container.kind == "wad":
        for index, (name, data, size) in enumerate(midi_lumps(Path(container.path), max_bytes)):
            if share.holds(index, f"{container.label}/{name}"):
                yield Item(f"{container.label}/{name}", data, size)
    elif container.kind == "other":
        yield passed_over(container.label, container.why)
    elif share.holds(0, container.label):
        with open(container.path, "rb") as file:
            data = file.read(max_bytes + 1)
        yield Item(container.label, data, max(len(data), os.path.getsize(container.path)))


def _zip_items(container: Container, max_bytes: int, share: Share) -> Iterator[Item]:
    with zipfile.ZipFile(container.path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if share.part == 0:
            others = (member.filename for member in members if not is_music(member.filename))
            yield from (passed_over(f"{container.label}/{name}") for name in others)
        for index, member in enumerate(member for member in members if is_music(member.filename)):
            label = f"{container.label}/{member.filename}"
            if not share.holds(index, label):
                continue
            try:
                with archive.open(member) as file:
                    data = file.read(max_bytes + 1)
            except _ARCHIVE_ERRORS as error:
                # Encrypted, of an unknown compression or damaged: the other members can still be read.
                reject = Reject("broken", f"it cannot be read from the archive ({error}).")
                yield Item(label, b"", member.file_size, reject)
                continue
            yield Item(label, data, max(len(data), member.file_size if len(data) > max_bytes else 0))


class _Member(tarfile.TarInfo):
    """A header that does not claim a long name or attributes of gigabytes, which tarfile would read into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        """Read a header.

        Raises:
            ReadError: it claims too much.
        """
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADER_TYPES and member.size > _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of it claims {member.size} bytes")
        return member


def _tar_items(container: Container, max_bytes: int, share: Share) -> Iterator[Item]:
    index = -1
    with open_tar(container.path) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or it would grow to 180 MB for Lakh
            label = f"{container.label}/{member.name}"
            if not member.isreg() or not is_music(member.name):
                if not member.isdir():
                    yield passed_over(label, "" if member.isreg() else "links and devices in an archive are not read")
                continue
            index += 1
            file = archive.extractfile(member) if share.holds(index, label) else None
            if file is not None:
                yield Item(label, file.read(max_bytes + 1), member.size)


def count_members(container: Container) -> int:
    """Number of music files in a .zip, from its directory; 1 for anything else, or where the directory is damaged."""
    if container.kind != "zip":
        return 1
    try:
        with zipfile.ZipFile(container.path) as archive:
            return max(sum(is_music(name) for name in archive.namelist()), 1)
    except _ARCHIVE_ERRORS:
        return 1


class Unpacked:
    """What a gzip file holds, as far as it goes: one that was cut ends where it was cut.

    All members of the file are one stream; what follows the last and is no gzip is left out, as gzip itself does.

    Args:
        file: open for reading, at its beginning.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._member: Any = isal_zlib.decompressobj(_GZIP_WINDOW)
        self._ready = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer at the end.

        Raises:
            isal_zlib.error: the file is damaged.
        """
        parts, missing = [self._ready], size - len(self._ready)
        while missing > 0 and not self._ended:
            parts.append(self._unpack())
            missing -= len(parts[-1])
        whole = b"".join(parts)
        self._ready = whole[size:]
        return whole[:size]

    def _unpack(self) -> bytes:
        packed: bytes = self._member.unused_data if self._member.eof else b""
        packed = packed or self._file.read(_BLOCK)
        if self._member.eof:
            if len(packed) == 1:
                packed += self._file.read(_BLOCK)
            if packed[:2] == _GZIP:
                self._member = isal_zlib.decompressobj(_GZIP_WINDOW)
            else:
                packed = b""
        self._ended = not packed
        return self._member.decompress(packed) if packed else b""


@contextmanager
def open_tar(path: str) -> Iterator[tarfile.TarFile]:
    """A tar of any compression, to be read once from its beginning; gzip by ISA-L, in a third of zlib's time.

    Raises:
        tarfile.TarError: it is no tar.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        stream: Any = Unpacked(file) if packed else file
        with tarfile.open(fileobj=stream, mode="r|" if packed else "r|*", tarinfo=_Member) as tar:
            yield tar


def midi_lumps(path: Path, max_bytes: int) -> Iterator[tuple[str, bytes, int]]:
    """MIDI files inside a WAD of Doom-like games (Debian's freedoom and freedm): name, first bytes, size.

    A WAD is a header ("IWAD" or "PWAD", number of lumps, offset of the directory), lumps, and a directory of (offset,
    size, 8-byte name); https://doomwiki.org/wiki/WAD. The older MUS format does not occur in these packages.

    Raises:
        ValueError: it is not a WAD, or its directory lies outside of it.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        header = file.read(12)
        if len(header) < 12 or header[:4] not in (b"IWAD", b"PWAD"):
            raise ValueError("it is not a WAD file")
        n_lumps, offset = struct.unpack("<ii", header[4:])
        size = path.stat().st_size
        if n_lumps < 0 or offset < 12 or offset + 16 * n_lumps > size:
            raise ValueError("its directory lies outside of the file")
        file.seek(offset)
        directory = file.read(16 * n_lumps)
        for k in range(n_lumps):
            position, length, name = struct.unpack_from("<ii8s", directory, 16 * k)
            if length < 14 or position < 12 or position + length > size:
                continue
            file.seek(position)
            data = file.read(min(length, max_bytes + 1))
            if data[:4] == b"MThd":
                yield name.rstrip(b"\x00").decode("ascii", "replace"), data, length
