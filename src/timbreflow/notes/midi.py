"""MIDI bytes to a `Piece`, whatever the bytes are.

symusic parses (about 0.3 ms a file). What it does with bad files was measured with version 0.6.0: 60,000 damaged files
raised RuntimeError or parsed, none crashed, took over 1 ms, or allocated by what the file claims. Four things it does
not do are done here: it takes a file that was cut between two tracks for whole, reads a division of 0 as NaN seconds,
a tempo of 0 as notes without length, and lets its 32-bit tick counter wrap around.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import symusic

from timbreflow.notes.limits import ReadLimits
from timbreflow.notes.pieces import Piece, Reject, Track
from timbreflow.notes.raw_notes import RAW_NOTE, raw_notes
from timbreflow.notes.tables import Notes

_HEADER_BYTES = 14
_TEMPO = b"\xff\x51\x03"
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
        _check_ticks(data, score, limits.max_ticks)
        if len(score.tempos) and score.tempos.numpy()["mspq"].min() <= 0:
            raise Reject("broken", "it sets a tempo of 0 microseconds per quarter note.")
        tracks, joined = _tracks(score.to("second").tracks)
    except (RuntimeError, ValueError, UnicodeDecodeError, OverflowError) as error:
        raise Reject("broken", f"it is not a readable MIDI file ({_first_line(error)}).") from error
    return limits.check_piece(tracks, joined)


def _check_ticks(data: bytes, score: Any, max_ticks: int) -> None:
    """Raise `Reject` for a file that runs past `max_ticks`, by events without notes or around 32 bits too."""
    end, start = int(score.end()), 0
    walked = _last_tick(data)
    if walked:
        ticks = [np.asarray(track.notes.numpy()["time"], np.int64) for track in score.tracks if len(track.notes)]
        end = max([walked, end, *(int(times.max()) for times in ticks)])
        start = min((int(times.min()) for times in ticks), default=0)
    if end > max_ticks or start < 0:
        raise Reject("too_many_ticks", f"it runs past tick {max_ticks}, the limit.")


def _tracks(tracks: Any) -> tuple[list[Track], Notes]:
    """Tracks of symusic in seconds, those left out in which no note can be heard; sorted all at once."""
    parts = [raw_notes(track.notes) for track in tracks]
    rows = np.frombuffer(b"".join(parts), RAW_NOTE)
    number = np.repeat(np.arange(len(parts)), [len(part) // RAW_NOTE.itemsize for part in parts])
    onset, duration, velocity = (np.ascontiguousarray(rows[name]) for name in ("time", "duration", "velocity"))
    kept = (duration > 0) & (velocity > 0) & (onset >= 0)
    if not kept.all():
        number, rows, onset = number[kept], rows[kept], onset[kept]
    # The bits of positive floats have the order of the floats.
    key = (onset + np.float32(0)).view(np.int32).astype(np.int64)
    key <<= 8
    key |= rows["pitch"]
    key |= number << 40
    order = np.argsort(key, kind="stable")
    key, rows = key[order], rows.take(order)  # eight times as fast as rows[order]
    twins = key[1:] == key[:-1]
    if twins.any():
        _sort_twins(rows, key, twins)
    notes = Notes(*(np.ascontiguousarray(rows[name]) for name in ("time", "duration", "pitch", "velocity")))
    notes = Notes(notes.onset, notes.duration, notes.pitch.view(np.uint8), notes.velocity.view(np.uint8))
    ends = np.searchsorted(number, np.arange(len(parts) + 1)).tolist()
    columns = (notes.onset, notes.duration, notes.pitch, notes.velocity)
    heard = [
        Track(
            Notes(*(column[begin:end] for column in columns)),
            int(track.program),
            bool(track.is_drum),
            track.name.replace("\x00", "").strip(),
        )
        for track, begin, end in zip(tracks, ends, ends[1:], strict=False)
        if end > begin
    ]
    return heard, notes


def _sort_twins(rows: np.ndarray, key: np.ndarray, twins: np.ndarray) -> None:
    """Put notes that begin together on one key in the order of duration and velocity, in place.

    Args:
        rows: [n] of `RAW_NOTE`, sorted by `key`.
        key: [n] int64, of track, onset and pitch.
        twins: [n - 1] bool, whether a note has the key of the next.
    """
    among = np.zeros(len(rows), bool)
    among[1:] = twins
    among[:-1] |= twins
    some = rows[among]
    second = np.ascontiguousarray(some["duration"]).view(np.int32).astype(np.int64) << 8 | some["velocity"]
    rows[among] = some[np.lexsort((second, key[among]))]


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
            # From the end, where it nearly always is.
            if data.rfind(_END_OF_TRACK, start, start + length) < 0:
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
    """Tick of the last event of any track with a long delta, or 0 where a look at the bytes shows that none matters.

    Walking over all events in Python costs a hundred times what symusic does, so it is done only for tracks that hold
    something like a delta time of 2^21 ticks, or for files with enough smaller ones to wrap 32 bits. What looks like
    one is most often the end of a tempo and the delta behind it; those count only where together they could wrap.
    """
    values = np.frombuffer(data, np.uint8)
    # Two bytes of a delta with their upper bit set, found as numbers of 16 bits at even and odd places.
    high = np.concatenate(
        [
            2 * np.flatnonzero((np.frombuffer(data, "<u2", (len(data) - odd) // 2, odd) & 0x8080) == 0x8080) + odd
            for odd in (0, 1)
        ]
    )
    high = high[(values[high] > 0x80) & (high < len(data) - 2)]
    third = values[high + 2] < 0x80
    bound = np.count_nonzero(third) * 2**21 + len(data) // 3 * 2**14
    long = np.sort(high[~third & (high < len(data) - 3)])
    long = long[values[long + 3] < 0x80]
    if len(long):
        bound += int(((values[long[:, None] + np.arange(4)] & 0x7F) @ np.array([2**21, 2**14, 2**7, 1])).sum())
    if bound < 2**31:
        long = np.array([at for at in long.tolist() if data.rfind(_TEMPO, max(at - 5, 0), at) < 0], np.int64)
        if len(long) == 0:
            return 0
    return max(
        (
            _track_ticks(data[start : start + length])
            for label, start, length in _chunks(data)
            if label == b"MTrk" and (bound >= 2**31 or np.any((long >= start) & (long < start + length)))
        ),
        default=0,
    )


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
