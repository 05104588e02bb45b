"""Whether a sound file holds what its header says, both ways.

libsndfile reads as much as the header says or the file holds, whichever is less, without a word: half of a broken
download, the first seconds of a recording whose header was never finished, or of an mp3 whose length is a guess. Here
the headers are held against the bytes that are there, for each format that is read:

- less than promised: refused as cut off, but for the few bytes by which programs miscount their own headers;
- more than promised (a recorder that crashed, a wav over 4 GiB, joined mp3s): all of it is read, through a header that
  says so, with a note;
- recordings joined in a way that cannot be read as one: refused.
"""

import io
import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from timbreflow.audio import mp3_frames
from timbreflow.errors import TimbreflowError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHECKED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")
"""libsndfile's names of the formats that are looked at here; of others nobody could say whether they are whole."""
MISCOUNTED = 64
"""Bytes by which a header may promise too much: some programs count the header, or parts of it, as sound."""
PADDING = 1 << 16
"""Zeros of at most so many bytes behind the sound fill up a block of the disk."""
_BLOCK = 1 << 18
_GIANT = 0xFFFFFFFF - 4096
"""From here on sizes in 32 bits, with their header, do not fit."""
_STARTS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff", b"fLaC", b"OggS", b".snd")
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_PCM_AIFC = (b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"fl32", b"FL32", b"fl64", b"FL64")

Part = bytes | tuple[int, int]
"""Bytes of our own, or [start, stop) of the file."""


@dataclass(frozen=True)
class Reading:
    """How a file is to be read.

    Args:
        parts: what libsndfile is to see in place of the file; None where the file is right as it is.
        notes: sentences on what is not as the header says.
    """

    parts: tuple[Part, ...] | None = None
    notes: tuple[str, ...] = ()


class _Damage(Exception):
    """What is wrong with a file, to be said behind its name."""


class _Bytes:
    """Random access to an open file in constant memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._start, self._block = 0, b""

    def __call__(self, position: int, n: int) -> bytes:
        start = position - self._start
        if start >= 0 and start + n <= len(self._block):
            return self._block[start : start + n]
        self._file.seek(position)
        self._start, self._block = position, self._file.read(max(n, _BLOCK))
        return self._block[:n]


class Stitched(io.RawIOBase):
    """Parts of a file, and bytes of our own, as one file to read."""

    def __init__(self, file: BinaryIO, parts: tuple[Part, ...]) -> None:
        self._file = file
        self._parts = parts
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + (len(part) if isinstance(part, bytes) else part[1] - part[0]))
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
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


def reading_of(source: Path | BinaryIO, name: str) -> Reading:
    """Hold a sound file's headers against its bytes.

    Args:
        source: a path, or an open file whose position is kept.
        name: what errors and notes call it.

    Raises:
        TimbreflowError: it is cut off, or holds several recordings that cannot be read as one.
    """
    try:
        if isinstance(source, Path):
            state = source.stat()
            return _of_path(source, name, state.st_mtime_ns, state.st_size)
        position = source.tell()
        try:
            return _examined(_Bytes(source), name)
        finally:
            source.seek(position)
    except _Damage as damage:
        raise TimbreflowError(f"{name} {damage}") from damage


@lru_cache(maxsize=64)
def _of_path(path: Path, name: str, mtime_ns: int, size: int) -> Reading:
    """A recording is opened several times, and examined once as long as it stays the same."""
    with open(path, "rb") as file:
        return _examined(_Bytes(file), name)


def _examined(read: _Bytes, name: str) -> Reading:
    base = 0
    while length := mp3_frames.id3_length(read, base):
        base += length
    head = read(base, 12)
    look: Callable[[_Bytes, int], Reading]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:] == b"WAVE":
        look = _wav
    elif read(base, 16) == _W64_RIFF:
        look = _w64
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        look = _aiff
    elif head[:4] == b"caff":
        look = _caf
    elif head[:4] in (b".snd", b"dns."):
        look = _au
    elif head[:4] == b"fLaC":
        look = _flac
    elif head[:4] == b"OggS":
        look = _ogg
    else:
        look = _mp3
    found = look(read, base)
    return Reading(found.parts, tuple(f"{name} {note}" for note in found.notes))


def _cut_off(missing: int) -> _Damage:
    return _Damage(f"is cut off: its header promises {missing} bytes more than it holds; export or download it again.")


def _joined() -> _Damage:
    return _Damage("holds several recordings, one behind the other; take them apart, or export them as one.")


def _extent(
    read: _Bytes,
    start: int,
    claimed: int | None,
    chain: Callable[[int], bool] = lambda _: False,
    *,
    wraps: bool = True,
) -> tuple[int, str | None]:
    """Bytes of sound from `start` on.

    Args:
        read: the file.
        start: where its sound begins.
        claimed: what its header says; None where that means "to the end".
        chain: whether proper chunks stand from a position to the end of the file.
        wraps: whether the size has 32 bits, of which a file over 4 GiB shows the lowest.

    Returns:
        The bytes that are sound, and a note where that is not what the header says.
    """
    there = read.size - start
    if claimed is None or claimed == there:
        return there, None
    if claimed > there:
        if claimed - there > MISCOUNTED and claimed not in (read.size, read.size - 8):
            raise _cut_off(claimed - there)
        return there, f"promises {claimed - there} bytes more than it holds, as a miscounted header does; all is read."
    for turns in range(there >> 32 if wraps else 0, 0, -1):
        longer = claimed + (turns << 32)
        if longer == there or (longer < there and chain(start + longer)):
            return longer, "is larger than its header can say (4 GiB); all of it is read."
    rest = start + claimed
    if chain(rest) or _is_padding(read, rest):
        return claimed, None
    if claimed == 0:
        return there, "is an unfinished recording, whose header says 0 bytes of sound; all that follows is read."
    return there, f"holds {there - claimed} bytes more than its header says; all of it is read as sound."


def _is_padding(read: _Bytes, position: int) -> bool:
    """Whether only zeros, or a tag of an mp3 player, stand behind the sound."""
    left = read.size - position
    if read(position, 3) in (b"TAG", b"ID3") or read(position, 8) == b"APETAGEX":
        return left <= 1 << 24
    return left <= PADDING and not read(position, left).strip(b"\0")


def _chunks(read: _Bytes, position: int, big: bool) -> tuple[list[tuple[bytes, int, int]], bool]:
    """Chunks (mark, start, length) from a position up to the sound, and whether they are proper up to the end."""
    found: list[tuple[bytes, int, int]] = []
    while position + 8 <= read.size:
        head = read(position, 8)
        if not all(0x20 <= letter < 0x7F for letter in head[:4]):
            return found, False
        length = int.from_bytes(head[4:], "big" if big else "little")
        found.append((head[:4], position + 8, length))
        if head[:4] in (b"data", b"SSND"):
            return found, False
        position += 8 + length + length % 2
    return found, position - 1 <= read.size


def _trailing(read: _Bytes, big: bool) -> Callable[[int], bool]:
    """Looks for proper chunks behind the sound, with or without the byte that makes its length even."""

    def chain(position: int) -> bool:
        for start in (position, position + 1):
            if start >= read.size - 1:
                return True
            found, proper = _chunks(read, start, big)
            # A last chunk of text that was cut off is no loss of sound, if it is one that is known.
            known = found and found[0][0] in (b"LIST", b"bext", b"id3 ", b"ID3 ", b"iXML", b"cue ", b"smpl", b"fact")
            if found and found[0][0] in (*_STARTS, b"data", b"SSND"):
                raise _joined()
            if proper or known:
                if any(mark in (*_STARTS, b"data", b"SSND") for mark, _, _ in found):
                    raise _joined()
                return True
        return False

    return chain


def _wav(read: _Bytes, base: int) -> Reading:
    mark = read(base, 4)
    big = mark == b"RIFX"
    order: Literal["big", "little"] = "big" if big else "little"
    chunks, _ = _chunks(read, base + 12, big)
    by_mark = {mark: (start, length) for mark, start, length in chunks}
    if b"data" not in by_mark or b"fmt " not in by_mark:
        return Reading()
    start, size = by_mark[b"data"]
    claimed: int | None = size
    large = mark in (b"RF64", b"BW64")
    if large and b"ds64" in by_mark and size == 0xFFFFFFFF:
        claimed = int.from_bytes(read(by_mark[b"ds64"][0] + 8, 8), "little")
        claimed = claimed if claimed < 1 << 62 else None
    elif (0x7FFF0000 <= size <= 0x80000100 or size >= 0xFFFF0000) and size > read.size - start:
        claimed = None  # what programs write that send a wav to a pipe and cannot know its length
    elif size >= 0xFFFF0000 and not _trailing(read, big)(start + size):
        claimed = None
    length, note = _extent(read, start, claimed, _trailing(read, big), wraps=not large)
    if note is None and mark != b"BW64" and (claimed is not None or (length < _GIANT and not large)):
        return Reading()
    form, form_length = by_mark[b"fmt "]
    fmt = b"fmt " + form_length.to_bytes(4, order) + read(form, form_length + form_length % 2)
    if length < _GIANT:
        body = b"WAVE" + fmt + b"data" + length.to_bytes(4, order)
        header = (b"RIFX" if big else b"RIFF") + (len(body) + length).to_bytes(4, order) + body
    elif big:
        raise _Damage("is larger than its header can say (4 GiB); convert it to an RF64 or W64 wav.")
    else:
        ends = b"\xff\xff\xff\xff"
        align = max(1, int.from_bytes(read(form + 12, 2), "little"))
        sizes = (72 + len(fmt) + length, length, length // align)
        ds64 = b"ds64" + (28).to_bytes(4, order) + b"".join(n.to_bytes(8, order) for n in sizes) + bytes(4)
        header = b"RF64" + ends + b"WAVE" + ds64 + fmt + b"data" + ends
    return Reading((header, (start, start + length)), (note,) if note else ())


def _w64(read: _Bytes, base: int) -> Reading:
    def chunk(position: int) -> tuple[bytes, int]:
        head = read(position, 24)
        return head[:16], int.from_bytes(head[16:], "little")

    def chain(position: int) -> bool:
        position = base + -(-(position - base) // 8) * 8
        while position + 24 <= read.size:
            mark, size = chunk(position)
            if mark == _W64_RIFF or mark == b"data" + _W64_TAIL:
                raise _joined()
            if size < 24 or not mark.endswith(_W64_TAIL[-8:]):
                return False
            position += -(-size // 8) * 8
        return position >= read.size - 8

    position, fmt = base + 40, b""
    while position + 24 <= read.size:
        mark, size = chunk(position)
        if mark == b"data" + _W64_TAIL:
            start = position + 24
            # What stands for "not known yet": nothing, the header alone, or the largest number.
            claimed = None if size >= 1 << 62 else max(0, size - 24)
            length, note = _extent(read, start, claimed, chain, wraps=False)
            if start + length == read.size and note is None and claimed is not None:
                return Reading()
            # libsndfile takes what stands behind the sound for sound as well.
            total = base + 40 + len(fmt) + 24 + length
            header = read(base, 16) + total.to_bytes(8, "little") + read(base + 24, 16) + fmt
            header += mark + (length + 24).to_bytes(8, "little")
            return Reading((header, (start, start + length)), (note,) if note else ())
        if size < 24:
            break
        if mark == b"fmt " + _W64_TAIL:
            fmt = read(position, -(-size // 8) * 8)
        position += -(-size // 8) * 8
    return Reading()


def _aiff(read: _Bytes, base: int) -> Reading:
    chunks, _ = _chunks(read, base + 12, True)
    by_mark = {mark: (start, length) for mark, start, length in chunks}
    if b"SSND" not in by_mark or b"COMM" not in by_mark:
        return Reading()
    common, common_length = by_mark[b"COMM"]
    comm = read(common, common_length + common_length % 2)
    compressed = read(base + 8, 4) == b"AIFC" and comm[18:22] not in _PCM_AIFC
    frame = int.from_bytes(comm[:2], "big") * -(-int.from_bytes(comm[6:8], "big") // 8)
    chunk, chunk_length = by_mark[b"SSND"]
    offset = int.from_bytes(read(chunk, 4), "big")
    start, claimed = chunk + 8 + offset, max(0, chunk_length - 8 - offset)
    length, note = _extent(read, start, claimed, _trailing(read, True))
    if not compressed and frame:
        promised = int.from_bytes(comm[2:6], "big") * frame
        if promised - length > MISCOUNTED:
            raise _cut_off(promised - length)
    if note is None:
        return Reading()
    if compressed or not frame or length >= _GIANT:
        raise _Damage("holds more sound than its header can say; convert it to a wav.")
    comm = comm[:2] + (length // frame).to_bytes(4, "big") + comm[6:]
    sound = (length + 8).to_bytes(4, "big")
    body = read(base + 8, 4) + b"COMM" + common_length.to_bytes(4, "big") + comm + b"SSND" + sound + bytes(8)
    header = b"FORM" + (len(body) + length).to_bytes(4, "big") + body
    return Reading((header, (start, start + length)), (note,))


def _au(read: _Bytes, base: int) -> Reading:
    head = read(base, 24)
    order: Literal["big", "little"] = "big" if head[:4] == b".snd" else "little"
    start, size = base + int.from_bytes(head[4:8], order), int.from_bytes(head[8:12], order)
    length, note = _extent(read, start, None if size == 0xFFFFFFFF else size)
    if note is None:
        return Reading()
    known = (24).to_bytes(4, order) + (length if length < _GIANT else 0xFFFFFFFF).to_bytes(4, order)
    return Reading((head[:4] + known + head[12:], (start, start + length)), (note,))


def _caf(read: _Bytes, base: int) -> Reading:
    def chain(position: int) -> bool:
        while position + 12 <= read.size:
            head = read(position, 12)
            if head[:4] in (b"caff", b"data"):
                raise _joined()
            size = int.from_bytes(head[4:], "big", signed=True)
            if size < 0 or not all(0x20 <= letter < 0x7F for letter in head[:4]):
                return False
            position += 12 + size
        return position == read.size

    position, desc = base + 8, b""
    while position + 12 <= read.size:
        head = read(position, 12)
        size = int.from_bytes(head[4:], "big", signed=True)
        if head[:4] == b"data":
            start = position + 16  # behind the count of edits
            length, note = _extent(read, start, None if size == -1 else max(0, size - 4), chain, wraps=False)
            if note is None and size != -1:
                return Reading()
            if desc[20:24] != b"lpcm":
                raise _Damage("does not say how long it is; convert it to a wav.")
            header = read(base, 8) + desc + b"data" + (length + 4).to_bytes(8, "big") + bytes(4)
            return Reading((header, (start, start + length)), (note,) if note else ())
        if size < 0:
            break
        if head[:4] == b"desc":
            desc = read(position, 12 + size)
        position += 12 + size
    return Reading()


def _flac(read: _Bytes, base: int) -> Reading:
    info = read(base + 8, 34)
    if len(info) < 34:
        return Reading()
    claimed = int.from_bytes(info[13:18], "big") & 0xFFFFFFFFF
    position = base + 42
    while position < read.size:  # a second file begins with the same mark and a STREAMINFO of 34 bytes
        block = read(position, _BLOCK)
        if b"fLaC\0\0\0\x22" in block or b"fLaC\x80\0\0\x22" in block:
            raise _joined()
        position += max(1, len(block) - 8) if position + len(block) < read.size else len(block)
    stop, there = _flac_end(read, info, claimed)
    if there is None and not claimed:
        raise _Damage("is cut off: it does not end with a whole frame; export or download it again.")
    if there is None or (there == claimed and stop == read.size):
        return Reading()
    if there < claimed:
        raise _Damage(
            f"is cut off: it ends after {there} of the {claimed} samples that its header promises; "
            "export or download it again."
        )
    bits = int.from_bytes(info[10:18], "big") & ~0xFFFFFFFFF | min(there, 0xFFFFFFFFF)
    # Without its checksum, which is of the number of samples that the header says.
    patched = read(base, 8) + info[:10] + bits.to_bytes(8, "big") + bytes(16)
    notes = (f"holds {there} samples where its header says {claimed}; all of it is read.",)
    return Reading((patched, (base + 42, stop)), notes if 0 < claimed < there else ())


def _flac_end(read: _Bytes, info: bytes, claimed: int) -> tuple[int, int | None]:
    """Where the last frame ends, and the samples a channel up to there by the number in its header, if found."""
    largest = int.from_bytes(info[7:10], "big") or 1 << 20
    start = max(0, read.size - largest - PADDING)
    tail = read(start, read.size - start)
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    place = len(tail)
    while (place := tail.rfind(b"\xff", 0, place)) >= 0:
        samples = _flac_frame_end(tail[place : place + 16], int.from_bytes(info[0:2], "big"))
        if samples == claimed and tail[-1]:
            return start + len(tail), samples
        # Chance may spell a header and its checksum of 8 bits; the one of 16 behind the frame tells for sure. Zeros
        # behind it, which may be its own last bytes or padding, leave it 0: they are all taken.
        if samples is not None and place + 8 < len(tail) and _crc(tail[place:], 0x8005, 16) == 0:
            return start + len(tail), samples
    return read.size, None


def _flac_frame_end(head: bytes, block_size: int) -> int | None:
    """Samples up to the end of the frame that begins here, or None if none does."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    code, rate = head[2] >> 4, head[2] & 15
    ones = 8 - (head[4] ^ 0xFF).bit_length()
    if code == 0 or rate == 15 or ones == 1 or ones > 7:
        return None
    number = head[4] & (0x7F >> ones) if ones else head[4]
    n = max(1, ones)
    for byte in head[5 : 4 + n]:
        number = number << 6 | byte & 0x3F
    place = 4 + n
    if code in (6, 7):
        size = int.from_bytes(head[place : place + code - 5], "big") + 1
        place += code - 5
    else:
        size = 192 if code == 1 else 144 << code if code < 6 else 1 << code
    place += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if place >= len(head) or _crc(head[:place], 0x07, 8) != head[place]:
        return None
    return (number if head[1] & 1 else number * block_size) + size


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    table, value, mask = _crc_table(polynomial, bits), 0, (1 << bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[(value >> bits - 8) ^ byte]
    return value


@lru_cache
def _crc_table(polynomial: int, bits: int) -> tuple[int, ...]:
    def entry(value: int) -> int:
        value <<= bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 else 0) & ((1 << bits) - 1)
            value &= (1 << bits) - 1
        return value

    return tuple(entry(value) for value in range(256))


def _ogg(read: _Bytes, base: int) -> Reading:
    """Whether the last page is all there, and all pages are of one recording."""
    position, pages_of_sound = base, False
    while position + 27 <= read.size:
        head = read(position, 27)
        if head[:5] != b"OggS\0":
            # libsndfile finds the next page, and its count of samples tells what was lost between.
            position = _next_page(read, position + 1)
            continue
        begins = head[5] & 2
        if begins and pages_of_sound:
            raise _joined()
        pages_of_sound = pages_of_sound or not begins
        lengths = read(position + 27, head[26])
        stop = position + 27 + head[26] + sum(lengths)
        if len(lengths) < head[26] or stop > read.size:
            missing = stop - read.size
            raise _cut_off(max(1, missing))
        position = stop
    if read.size - position > 0 and read(position, 4) == b"OggS":
        raise _cut_off(27 - (read.size - position))
    return Reading()


def _next_page(read: _Bytes, position: int) -> int:
    while position < read.size:
        block = read(position, 1 << 16)
        found = block.find(b"OggS\0")
        if found >= 0:
            return position + found
        position += max(1, len(block) - 4)
    return read.size


def _mp3(read: _Bytes, base: int) -> Reading:
    frames = mp3_frames.walk(read, read.size)
    if frames is None or 2 * sum(stop - start for start, stop in frames.runs) < read.size - base:
        return Reading()  # chance spells a frame in anything
    if len(frames.kinds) > 1:
        raise _Damage("changes its sample rate or channels in the middle; convert it to a wav.")
    seconds = frames.samples / frames.kinds[0][2]
    notes = []
    for info, found in frames.parts:
        # Some encoders count the frame of the header itself.
        if info.frames > found + (0 if frames.incomplete else 1):
            raise _Damage(
                f"is cut off: its header promises {info.frames * seconds:.2f} s of sound and it holds "
                f"{found * seconds:.2f} s; export or download it again."
            )
    if len(frames.parts) > 1:
        notes.append(f"holds {len(frames.parts)} recordings joined together; all of them are read as one.")
    claimed = sum(info.frames for info, _ in frames.parts)
    if frames.parts and len(frames.parts) == 1 and frames.n_frames > claimed:
        notes.append(
            f"holds {frames.n_frames * seconds:.2f} s of sound where its header says {claimed * seconds:.2f} s; "
            "all of it is read."
        )
    if frames.passed_over:
        notes.append(f"has {frames.passed_over} bytes between its sound that are no sound; they are passed over.")
    if frames.incomplete:
        notes.append("ends in the middle of a frame, which is left out.")
    trusted = len(frames.parts) == 1 and claimed == frames.n_frames and not notes
    if trusted and len(frames.runs) == 1:
        return Reading()
    if frames.kinds[0][1] != 3:
        return Reading(None, tuple(notes))
    return Reading((mp3_frames.info_frame(frames, read), *frames.runs), tuple(notes))
