"""The frames of an mp3, counted one by one.

libsndfile takes the length of an mp3 from its Xing or Info header, and estimates it where there is none or a wrong one;
what lies beyond is never read. Here the frames themselves are walked, so that the length is true.
"""

from dataclasses import dataclass
from functools import lru_cache

from timbreflow.audio.file_bytes import FileBytes

SMALL_TAIL = 4096
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates 1..14 by version (MPEG 2 and 2.5 share them) and layer; layer 3 of MPEG 2 has those of its layer 2."""
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclass(frozen=True)
class _Frame:
    """What the four bytes of a frame's header say; `kind` (version, layer, rate, channels) is the same in all."""

    size: int
    samples: int
    kind: tuple[int, int, int, int]
    info_at: int


@dataclass(frozen=True)
class InfoHeader:
    """A Xing, Info or VBRI header, which stands in a frame of its own and makes no sound.

    Args:
        frames: its count of frames, 0 where it has none.
        lame_at: where LAME's delay and padding stand, three bytes; None for others.
    """

    frames: int
    lame_at: int | None


@dataclass(frozen=True)
class Mp3Frames:
    """All of an mp3's frames.

    Args:
        runs: [start, stop) bytes of frames without a gap, headers left out.
        parts: each Xing, Info or VBRI header, and the number of frames from it to the next.
        n_frames: frames that sound.
        samples: samples a channel of one frame.
        header: the first frame's four bytes.
        kinds: the different (version, layer, rate, channels), one unless recordings were joined.
        passed_over: bytes between frames, or many behind them, that are neither frames, tags nor zeros.
        incomplete: whether the file ends in the middle of a frame.
    """

    runs: tuple[tuple[int, int], ...]
    parts: tuple[tuple[InfoHeader, int], ...]
    n_frames: int
    samples: int
    header: bytes
    kinds: tuple[tuple[int, int, int, int], ...]
    passed_over: int
    incomplete: bool


def id3_length(read: FileBytes, position: int) -> int:
    """Bytes of the ID3v2 tag at a position; 0 where there is none."""
    head = read(position, 10)
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:]) > 0x7F:
        return 0
    length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return length + (20 if head[5] & 0x10 else 10)


def walk(read: FileBytes) -> Mp3Frames | None:
    """Walk all frames of a file, in constant memory; None where it has none of known length."""
    position, n_frames, passed_over, unknown, first = 0, 0, 0, 0, None
    runs: list[list[int]] = []
    parts: list[tuple[InfoHeader, int]] = []
    kinds: dict[tuple[int, int, int, int], None] = {}
    incomplete = False
    while position < read.size:
        head = read(position, 4)
        frame = _frame(head)
        # Two frames in a row make a start: the bits of a header may occur anywhere.
        begins = not runs or runs[-1][1] != position
        if frame is None or (begins and not _goes_on(read, position, frame)):
            tag = _tag_length(read, position)
            jump = tag or read.find(position + 1, b"\xff", b"ID3", b"TAG", b"APETAGEX") - position
            if not tag and first is not None and read(position, min(jump, 1 << 20)).strip(b"\0"):
                unknown += jump
            position += jump
            continue
        if position + frame.size > read.size:
            incomplete = True
            break
        passed_over, unknown = passed_over + unknown, 0
        info = _info_header(read, position, frame)
        if info is not None:
            parts.append((info, n_frames))
            if runs:
                runs[-1][1] = position  # the next run begins behind it
            runs.append([position + frame.size, position + frame.size])
        elif begins:
            runs.append([position, position + frame.size])
        else:
            runs[-1][1] = position + frame.size
        if info is None:
            n_frames += 1
            kinds[frame.kind] = None
            first = first or (head, frame)
        position += frame.size
    if first is None:
        return None
    # Behind the last frame stand tags of all kinds, which are small.
    passed_over += unknown if unknown > SMALL_TAIL else 0
    ends = [*(start for _, start in parts[1:]), n_frames] if parts else []
    return Mp3Frames(
        runs=tuple((start, stop) for start, stop in runs if stop > start),
        parts=tuple((info, end - start) for (info, start), end in zip(parts, ends, strict=True)),
        n_frames=n_frames,
        samples=first[1].samples,
        header=first[0],
        kinds=tuple(kinds),
        passed_over=passed_over,
        incomplete=incomplete,
    )


def info_frame(frames: Mp3Frames, read: FileBytes) -> bytes:
    """A frame with an Info header that tells the true number of frames, to stand before them.

    Delay at the start and padding at the end are those of the first and of the last header that knows them.
    """
    # A first part without a header has a delay that nobody knows.
    headed = frames.parts and sum(found for _, found in frames.parts) == frames.n_frames
    start = frames.parts[0][0].lame_at if headed else None
    end = frames.parts[-1][0].lame_at if frames.parts else None
    # The highest bit rate below "free" has room for the header at every sample rate.
    head = bytearray(frames.header)
    head[1] |= 1  # no checksum
    head[2] = 0xE0 | (head[2] & 0x0C)
    frame = _frame(bytes(head))
    assert frame is not None
    data = bytearray(frame.size)
    data[:4] = head
    place = frame.info_at
    n_bytes = frame.size + sum(stop - start for start, stop in frames.runs)
    data[place : place + 16] = (
        b"Info"
        + (3).to_bytes(4, "big")
        + frames.n_frames.to_bytes(4, "big")
        + min(n_bytes, 0xFFFFFFFF).to_bytes(4, "big")
    )
    if start is not None or end is not None:
        delay, padding = (read(at, 3) if at is not None else bytes(3) for at in (start, end))
        data[place + 16 : place + 20] = b"LAME"
        data[place + 37 : place + 40] = (delay[0], delay[1] & 0xF0 | padding[1] & 0x0F, padding[2])
    return bytes(data)


def _frame(head: bytes) -> _Frame | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    return _parsed(head[1], head[2], head[3] >> 6)


@lru_cache(maxsize=4096)
def _parsed(second: int, third: int, mode: int) -> _Frame | None:
    version, layer, bits, rate = second >> 3 & 3, 4 - (second >> 1 & 3), third >> 4, third >> 2 & 3
    if version == 1 or layer == 4 or rate == 3 or bits in (0, 15):
        return None
    generation = 1 if version == 3 else 2
    kbits = _KBITS[(generation, 2 if generation == 2 and layer == 3 else layer)][bits - 1]
    hertz, padding = _RATES[version][rate], third >> 1 & 1
    samples = {1: 384, 2: 1152, 3: 1152 if generation == 1 else 576}[layer]
    slot = 4 if layer == 1 else 1
    size = (samples // 8 * kbits * 1000 // slot // hertz + padding) * slot
    channels = 1 if mode == 3 else 2
    side = {(1, 1): 17, (1, 2): 32, (2, 1): 9, (2, 2): 17}[(generation, channels)]
    return _Frame(size, samples, (version, layer, hertz, channels), 4 + side)


def _goes_on(read: FileBytes, position: int, frame: _Frame) -> bool:
    """Whether another frame of the same kind, a tag or the end follows."""
    end = position + frame.size
    if end >= read.size:
        return end == read.size
    following = _frame(read(end, 4))
    return (following is not None and following.kind[:3] == frame.kind[:3]) or _tag_length(read, end) > 0


def _tag_length(read: FileBytes, position: int) -> int:
    """Bytes of the ID3, APE or Lyrics3 tag at a position; 0 where there is none."""
    head = read(position, 32)
    if head[:3] == b"TAG":
        return min(128, read.size - position)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        # The length counts the footer but not the header; a footer alone ends what it describes.
        return 32 + (int.from_bytes(head[12:16], "little") if head[23] & 0x20 else 0)
    if head[:11] == b"LYRICSBEGIN":
        end = read(position, 1 << 20).find(b"LYRICS200")
        return end + 9 if end > 0 else 0
    return id3_length(read, position)


def _info_header(read: FileBytes, position: int, frame: _Frame) -> InfoHeader | None:
    data = read(position, 200)
    for at in (frame.info_at, frame.info_at + 2):  # two more where the frame has a checksum
        if data[at : at + 4] in (b"Xing", b"Info"):
            place = at + 8
            flags = data[at + 7]
            frames = int.from_bytes(data[place : place + 4], "big") if flags & 1 else 0
            place += 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
            lame = data[place : place + 4] in (b"LAME", b"Lavf", b"Lavc", b"GOGO")
            return InfoHeader(frames, position + place + 21 if lame else None)
    if data[36:40] == b"VBRI":
        return InfoHeader(int.from_bytes(data[50:54], "big"), None)
    return None
