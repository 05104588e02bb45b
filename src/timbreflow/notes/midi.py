"""MIDI bytes to a `Piece`, whatever the bytes are.

symusic parses (about 0.3 ms a file). What it does with bad files was measured with version 0.6.0: 60,000 damaged files
raised RuntimeError or parsed, none crashed, took over 1 ms, or allocated by what the file claims. Four things it does
not do are done here: it takes a file that was cut between two tracks for whole, reads a division of 0 as NaN seconds,
a tempo of 0 as notes without length, and lets its 32-bit tick counter wrap around.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import symusic

from timbreflow.notes.limits import ReadLimits
from timbreflow.notes.pieces import Piece, Reject, Track
from timbreflow.notes.tables import Notes

_LONG_DELTA = re.compile(rb"[\x81-\xff][\x80-\xff]{2}[\x00-\x7f]")  # a delta of 2^21 ticks or more
_MEDIUM_DELTA = re.compile(rb"[\x81-\xff][\x80-\xff][\x00-\x7f]")  # at least 2^14
_HEADER_BYTES = 14
_END_OF_TRACK = b"\xff\x2f\x00"
_DATA_BYTES = {0x8: 2, 0x9: 2, 0xA: 2, 0xB: 2, 0xC: 1, 0xD: 1, 0xE: 2}


def read_midi(data: bytes, limits: ReadLimits) -> Piece:
    """Parse a standard MIDI file (format 0, 1 or 2, or wrapped in RIFF).

    Every (MIDI track, channel, program) becomes a track; channel 10 is drums; a track that never names a program has
    program 0, as General MIDI says. Seconds follow the tempo map. Notes that never end are dropped.

    Args:
        data: the whole file.
        limits: what is still read.

    Raises:
        Reject: the file gives no piece, with the reason.
    """
    limits.check_size(len(data))
    data = _unwrap(data)
    if data[:4] == b"MThd" and b"MTrk" not in data:
        raise Reject("broken", "it ends after its header: no track follows.")
    _check_whole(data)
    try:
        score: Any = symusic.Score.from_midi(data)  # symusic's types know only its generic base
        if score.tpq <= 0:
            raise Reject("broken", "its header says 0 ticks per quarter note.")
        ticks = [np.asarray(track.notes.numpy()["time"], np.int64) for track in score.tracks]
        end = max([_last_tick(data), int(score.end()), *(int(times.max()) for times in ticks if len(times))])
        if end > limits.max_ticks or any(len(times) and times.min() < 0 for times in ticks):
            raise Reject("too_many_ticks", f"it runs past tick {limits.max_ticks}, the limit.")
        if len(score.tempos) and min(tempo.mspq for tempo in score.tempos) <= 0:
            raise Reject("broken", "it sets a tempo of 0 microseconds per quarter note.")
        seconds = score.to("second")
        tracks = [_track(track) for track in seconds.tracks]
    except (RuntimeError, ValueError, UnicodeDecodeError, OverflowError) as error:
        raise Reject("broken", f"it is not a readable MIDI file ({_first_line(error)}).") from error
    return limits.check_piece([track for track in tracks if track is not None])


def _track(track: symusic.core.TrackSecond) -> Track | None:
    """A symusic track in seconds, or None where no note of it can be heard."""
    columns = track.notes.numpy()
    kept = (columns["duration"] > 0) & (columns["velocity"] > 0) & (columns["time"] >= 0)
    if not kept.any():
        return None
    onset, duration, pitch, velocity = (columns[name][kept] for name in ("time", "duration", "pitch", "velocity"))
    name = track.name.replace("\x00", "").strip()
    return Track(Notes.of(onset, duration, pitch, velocity), int(track.program), bool(track.is_drum), name)


def _unwrap(data: bytes) -> bytes:
    """The standard MIDI file inside a RIFF "RMID" file; other bytes as they are."""
    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        start = data.find(b"MThd", 12)
        return data[start:] if start >= 0 else data
    return data


def _check_whole(data: bytes) -> None:
    """Raise `Reject` for a file that was cut; what follows the last track is no part of the music and may be anything.

    The end of a track is looked for anywhere in its chunk, since some programs pad chunks behind it.
    """
    if data[:4] != b"MThd" or len(data) < _HEADER_BYTES:
        return  # symusic says what is wrong with it
    (promised,) = struct.unpack(">H", data[10:12])
    found = 0
    for label, start, length in _chunks(data):
        if found >= promised and label != b"MTrk":
            break
        if start + length > len(data):
            missing = start + length - len(data)
            raise Reject("broken", f"it was cut: {missing} bytes of its chunk {found + 1} are missing.")
        if label == b"MTrk":
            found += 1
            if _END_OF_TRACK not in data[start : start + length]:
                raise Reject("broken", f"its track {found} has no end.")
    if found < promised:
        raise Reject("broken", f"it was cut: it has {found} of the {promised} tracks that its header promises.")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Label, first byte and claimed length of each chunk after the header."""
    (header,) = struct.unpack(">I", data[4:8])
    position = 8 + header
    while position + 8 <= len(data):
        (length,) = struct.unpack(">I", data[position + 4 : position + 8])
        yield data[position : position + 4], position + 8, length
        position += 8 + length


def _last_tick(data: bytes) -> int:
    """Tick of the last event of any track, or 0 where a look at the bytes shows that it cannot be large.

    Walking over all events in Python costs a hundred times what symusic does, so it is done only for files that hold
    something like a delta time of 2^21 ticks, or enough smaller ones to wrap 32 bits.
    """
    bound = len(_MEDIUM_DELTA.findall(data)) * 2**21 + len(data) // 3 * 2**14
    if bound < 2**31 and _LONG_DELTA.search(data) is None:
        return 0
    tracks = (data[start : start + length] for label, start, length in _chunks(data) if label == b"MTrk")
    return max(map(_track_ticks, tracks), default=0)


def _track_ticks(events: bytes) -> int:
    """Tick of the last event of one MTrk chunk; ends where the chunk is damaged, which symusic will report."""
    tick, position, status = 0, 0, 0
    try:
        while position < len(events):
            delta, position = _variable_length(events, position)
            tick += delta
            if events[position] >= 0x80:
                status = events[position]
                position += 1
            if status in (0xF0, 0xF7):
                length, position = _variable_length(events, position)
                position += length
            elif status == 0xFF:
                length, position = _variable_length(events, position + 1)
                position += length
            else:
                position += _DATA_BYTES.get(status >> 4, 0)
    except IndexError:
        pass
    return tick


def _variable_length(data: bytes, position: int) -> tuple[int, int]:
    """A number of one to four bytes and the position after it."""
    value = 0
    for end in range(position + 1, position + 5):
        value = value << 7 | data[end - 1] & 0x7F
        if data[end - 1] < 0x80:
            return value, end
    return value, position + 4


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
