"""Whether a sound file holds what its header says, both ways.

libsndfile reads as much as the header says or the file holds, whichever is less, without a word: half of a broken
download, the first seconds of a recording whose header was never finished, or of an mp3 whose length is a guess. Here
the headers are held against the bytes that are there, for each format that is read:

- less than promised: refused as cut off, but for the few bytes by which programs miscount their own headers;
- more than promised (a recorder that crashed, a wav over 4 GiB, joined mp3s): all of it is read, through a header that
  says so, with a note;
- recordings joined in a way that cannot be read as one: refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal

from timbreflow.audio import mp3_frames
from timbreflow.audio.file_bytes import FileBytes, Part
from timbreflow.errors import TimbreflowError

CHECKED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")
"""libsndfile's names of the formats that are looked at here; of others nobody could say whether they are whole."""
MISCOUNTED = 64
"""Bytes by which a header may promise too much: some programs count the header, or parts of it, as sound."""
PADDING = 1 << 16
"""Zeros of at most so many bytes behind the sound fill up a block of the disk."""
_GIANT = 0xFFFFFFFF - 4096
"""From here on sizes in 32 bits, with their header, do not fit."""
_UNKNOWN = 1 << 62
"""From here on sizes in 64 bits mean "not known yet"."""
_TEXTS = (b"LIST", b"bext", b"id3 ", b"ID3 ", b"iXML", b"cue ", b"smpl", b"fact")
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_STARTS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff", b"fLaC", b"OggS", b".snd", _W64_RIFF)
_PCM_AIFC = (b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"fl32", b"FL32", b"fl64", b"FL64")


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


@dataclass(frozen=True)
class _Layout:
    """How a container lays out its chunks: mark, size, contents.

    Args:
        order: of the bytes of a size.
        first: where the first chunk stands, behind the start of the file.
        mark: bytes of a mark.
        size: bytes of a size.
        counted: what a size counts besides the contents.
        align: chunks are filled up to a multiple of so many bytes.
        sound: mark of the chunk of sound.
    """

    order: Literal["big", "little"]
    first: int
    mark: int
    size: int
    counted: int
    align: int
    sound: bytes


_RIFF = _Layout("little", 12, 4, 4, 0, 2, b"data")
_RIFX = _Layout("big", 12, 4, 4, 0, 2, b"data")
_AIFF = _Layout("big", 12, 4, 4, 0, 2, b"SSND")
_W64 = _Layout("little", 40, 16, 8, 24, 8, b"data" + _W64_TAIL)
_CAF = _Layout("big", 8, 4, 8, 0, 1, b"data")


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
            return _examined(FileBytes(source), name)
        finally:
            source.seek(position)
    except _Damage as damage:
        raise TimbreflowError(f"{name} {damage}") from damage


@lru_cache(maxsize=64)
def _of_path(path: Path, name: str, mtime_ns: int, size: int) -> Reading:
    """A recording is opened several times, and examined once as long as it stays the same."""
    with open(path, "rb") as file:
        return _examined(FileBytes(file), name)


def _examined(read: FileBytes, name: str) -> Reading:
    base = 0
    while length := mp3_frames.id3_length(read, base):
        base += length
    head = read(base, 12)
    look: Callable[[FileBytes, int], Reading]
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


def _chunks(read: FileBytes, layout: _Layout, position: int) -> tuple[dict[bytes, tuple[int, int]], int]:
    """Chunks up to the sound or to what is no chunk, {mark: (start, length) of the contents}, and where that stands."""
    found: dict[bytes, tuple[int, int]] = {}
    while position + layout.mark + layout.size <= read.size:
        mark = read(position, layout.mark)
        start = position + layout.mark + layout.size
        length = read.number(start - layout.size, layout.size, layout.order) - layout.counted
        if layout is _W64:
            is_mark = mark == _W64_RIFF or mark.endswith(_W64_TAIL[-8:])
        else:
            is_mark = all(0x20 <= letter < 0x7F for letter in mark)
        if not is_mark or (length < 0 and mark != layout.sound):
            break
        found[mark] = start, max(0, length)
        if mark == layout.sound:
            break
        position = start + length + -length % layout.align
    return found, position


def _is_chain(read: FileBytes, layout: _Layout, base: int, position: int) -> bool:
    """Whether chunks without sound stand from a position, aligned or not, to the end of the file."""
    for start in (position, position + (base - position) % layout.align):
        if start > read.size - layout.align:
            return True
        found, stop = _chunks(read, layout, start)
        if found.keys() & {*_STARTS, layout.sound}:
            raise _joined()
        # A last chunk of text that was cut off is no loss of sound, if it is one that is known.
        whole = -layout.align < read.size - stop < (1 if layout is _CAF else 8)
        if whole or (found and next(iter(found)) in _TEXTS):
            return True
    return False


def _extent(
    read: FileBytes, layout: _Layout | None, base: int, start: int, claimed: int | None
) -> tuple[int, str | None]:
    """Bytes of sound from `start` on.

    Args:
        read: the file.
        layout: of the chunks that may follow; None where there are none.
        base: where the file begins, behind tags.
        start: where its sound begins.
        claimed: what its header says; None where that means "to the end".

    Returns:
        The bytes that are sound, and a note where that is not what the header says.
    """

    def chain(position: int) -> bool:
        return layout is not None and _is_chain(read, layout, base, position)

    there = read.size - start
    if there < 0:
        raise _cut_off(-there)
    if claimed is None or claimed == there:
        return there, None
    if claimed > there:
        if claimed - there > MISCOUNTED and claimed not in (read.size, read.size - 8):
            raise _cut_off(claimed - there)
        return there, f"promises {claimed - there} bytes more than it holds, as a miscounted header does; all is read."
    # A size of 32 bits shows the lowest of those of a file over 4 GiB.
    wraps = layout is None or layout.size == 4
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


def _is_padding(read: FileBytes, position: int) -> bool:
    """Whether only zeros, or a tag of an mp3 player, stand behind the sound."""
    left = read.size - position
    if read(position, 3) in (b"TAG", b"ID3") or read(position, 8) == b"APETAGEX":
        return left <= 1 << 24
    return left <= PADDING and not read(position, left).strip(b"\0")


def _changed(base: int, stop: int, changes: dict[tuple[int, int], bytes], note: str | None) -> Reading:
    """To read [base, stop) of the file with bytes of it replaced: {(position, how many): by these}."""
    parts: list[Part] = []
    for (position, n), data in sorted(changes.items()):
        parts += [(base, position), data]
        base = position + n
    return Reading((*parts, (base, stop)), (note,) if note else ())


def _wav(read: FileBytes, base: int) -> Reading:
    mark = read(base, 4)
    layout = _RIFX if mark == b"RIFX" else _RIFF
    chunks, _ = _chunks(read, layout, base + layout.first)
    if b"data" not in chunks or b"fmt " not in chunks:
        return Reading()
    start, size = chunks[b"data"]
    claimed: int | None = size
    ds64 = chunks[b"ds64"][0] if mark in (b"RF64", b"BW64") and b"ds64" in chunks else None
    if ds64 is not None and size == 0xFFFFFFFF:
        claimed = read.number(ds64 + 8, 8, "little")
        claimed = claimed if claimed < _UNKNOWN else None
    elif (0x7FFF0000 <= size <= 0x80000100 or size >= 0xFFFF0000) and size > read.size - start:
        claimed = None  # what programs write that send a wav to a pipe and cannot know its length
    elif size >= 0xFFFF0000 and not _is_chain(read, layout, base, start + size):
        claimed = None
    length, note = _extent(read, layout, base, start, claimed)
    if note is None and mark != b"BW64" and (claimed is not None or (length < _GIANT and ds64 is None)):
        return Reading()
    everything = b"\xff\xff\xff\xff"
    if ds64 is not None:
        changes = {(base, 4): b"RF64", (ds64 + 8, 8): length.to_bytes(8, "little"), (start - 4, 4): everything}
    elif length < _GIANT:
        changes = {(base, 4): b"RIFX" if mark == b"RIFX" else b"RIFF", (start - 4, 4): length.to_bytes(4, layout.order)}
    elif mark == b"RIFX":
        raise _Damage("is larger than its header can say (4 GiB); convert it to an RF64 or W64 wav.")
    else:
        frame = max(1, read.number(chunks[b"fmt "][0] + 12, 2, "little"))
        sizes = b"".join(n.to_bytes(8, "little") for n in (start + length + 28 - base, length, length // frame))
        chunk = b"ds64" + (28).to_bytes(4, "little") + sizes + bytes(4)
        changes = {(base, 8): b"RF64" + everything, (base + 12, 0): chunk, (start - 4, 4): everything}
    return _changed(base, start + length, changes, note)


def _w64(read: FileBytes, base: int) -> Reading:
    chunks, _ = _chunks(read, _W64, base + _W64.first)
    if _W64.sound not in chunks:
        return Reading()
    start, size = chunks[_W64.sound]
    claimed = None if size >= _UNKNOWN - _W64.counted else size
    length, note = _extent(read, _W64, base, start, claimed)
    # libsndfile takes what stands behind the sound for sound as well.
    if start + length == read.size and note is None and claimed is not None:
        return Reading()
    return _changed(base, start + length, {(start - 8, 8): (length + _W64.counted).to_bytes(8, "little")}, note)


def _aiff(read: FileBytes, base: int) -> Reading:
    chunks, _ = _chunks(read, _AIFF, base + _AIFF.first)
    if b"SSND" not in chunks or b"COMM" not in chunks:
        return Reading()
    common = chunks[b"COMM"][0]
    compressed = read(base + 8, 4) == b"AIFC" and read(common + 18, 4) not in _PCM_AIFC
    frame = read.number(common, 2, "big") * -(-read.number(common + 6, 2, "big") // 8)
    chunk, chunk_length = chunks[b"SSND"]
    offset = 8 + read.number(chunk, 4, "big")
    start = chunk + offset
    length, note = _extent(read, _AIFF, base, start, max(0, chunk_length - offset))
    if not compressed and frame:
        promised = read.number(common + 2, 4, "big") * frame
        if promised - length > MISCOUNTED:
            raise _cut_off(promised - length)
    if note is None:
        return Reading()
    if compressed or not frame or length >= _GIANT:
        raise _Damage("holds more sound than its header can say; convert it to a wav.")
    changes = {
        (common + 2, 4): (length // frame).to_bytes(4, "big"),
        (chunk - 4, 4): (length + offset).to_bytes(4, "big"),
    }
    return _changed(base, start + length, changes, note)


def _au(read: FileBytes, base: int) -> Reading:
    order: Literal["big", "little"] = "big" if read(base, 4) == b".snd" else "little"
    start, size = base + read.number(base + 4, 4, order), read.number(base + 8, 4, order)
    length, note = _extent(read, None, base, start, None if size == 0xFFFFFFFF else size)
    if note is None:
        return Reading()
    known = length if length < _GIANT else 0xFFFFFFFF
    return _changed(base, start + length, {(base + 8, 4): known.to_bytes(4, order)}, note)


def _caf(read: FileBytes, base: int) -> Reading:
    chunks, _ = _chunks(read, _CAF, base + _CAF.first)
    if b"data" not in chunks:
        return Reading()
    chunk, size = chunks[b"data"]
    start = chunk + 4  # behind the count of edits
    claimed = None if size >= _UNKNOWN else max(0, size - 4)
    length, note = _extent(read, _CAF, base, start, claimed)
    if note is None and claimed is not None:
        return Reading()
    if b"desc" not in chunks or read(chunks[b"desc"][0] + 8, 4) != b"lpcm":
        raise _Damage("does not say how long it is; convert it to a wav.")
    return _changed(base, start + length, {(chunk - 8, 8): (length + 4).to_bytes(8, "big")}, note)


def _flac(read: FileBytes, base: int) -> Reading:
    info = read(base + 8, 34)
    if len(info) < 34:
        return Reading()
    claimed = int.from_bytes(info[13:18], "big") & 0xFFFFFFFFF
    # A second file begins with the same mark and a STREAMINFO of 34 bytes.
    if read.find(base + 42, b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22") < read.size:
        raise _joined()
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


def _flac_end(read: FileBytes, info: bytes, claimed: int) -> tuple[int, int | None]:
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


def _ogg(read: FileBytes, base: int) -> Reading:
    """Whether the last page is all there, and all pages are of one recording."""
    position, pages_of_sound = base, False
    while position + 27 <= read.size:
        head = read(position, 27)
        if head[:5] != b"OggS\0":
            # libsndfile finds the next page, and its count of samples tells what was lost between.
            position = read.find(position + 1, b"OggS\0")
            continue
        begins = head[5] & 2
        if begins and pages_of_sound:
            raise _joined()
        pages_of_sound = pages_of_sound or not begins
        lengths = read(position + 27, head[26])
        stop = position + 27 + head[26] + sum(lengths)
        if len(lengths) < head[26] or stop > read.size:
            raise _cut_off(max(1, stop - read.size))
        position = stop
    if read.size - position > 0 and read(position, 4) == b"OggS":
        raise _cut_off(27 - (read.size - position))
    return Reading()


def _mp3(read: FileBytes, base: int) -> Reading:
    frames = mp3_frames.walk(read)
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
    if len(frames.parts) == 1 and frames.n_frames > claimed:
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
