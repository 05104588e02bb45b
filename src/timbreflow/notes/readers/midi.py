"""MIDI bytes to a `Piece`, whatever the bytes are.

symusic parses (about 0.3 ms a file). What it does with bad files was measured with version 0.6.0: 60,000 damaged files
raised RuntimeError or parsed, none crashed, took over 1 ms, or allocated by what the file claims. What it does not do
is done here: it believes the lengths and the number of tracks that a file claims, loses notes behind system messages
(`compiled.walk`), reads a division of 0 as NaN seconds, a tempo of 0 as notes without length, and lets its 32-bit tick
counter wrap around.
"""

import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import symusic

from timbreflow.notes.pieces import Piece, ReadLimits, Reject, Track
from timbreflow.notes.tables import Notes

_HEADER_BYTES = 14
_END_MARK = b"\xff\x2f\x00"

RAW_NOTE = np.dtype(
    {
        "names": ["time", "duration", "pitch", "velocity"],
        "formats": ["<f4", "<f4", "i1", "i1"],
        "offsets": [0, 4, 8, 9],
        "itemsize": 12,
    }
)
"""One note with times in s."""


def read_midi(data: bytes, limits: ReadLimits) -> Piece:
    """Parse a standard MIDI file (format 0, 1 or 2, or wrapped in RIFF).

    Every (MIDI track, channel, program) becomes a track; channel 10 is drums; a track that never names a program has
    program 0, as General MIDI says. Seconds follow the tempo map. Notes that never end are dropped. Lengths and numbers
    of tracks that the file states wrongly do not matter as long as the events are there.

    Args:
        data: the whole file.
        limits: what is still read.

    Raises:
        Reject: the file gives no piece, with the reason.
    """
    limits.check_size(len(data))
    data = _unwrap(data)
    spans: list[tuple[int, int]] = []
    remark = ""
    if data[:4] == b"MThd" and len(data) >= _HEADER_BYTES:  # of others symusic says what is wrong
        data, spans, remark = _mended(data)
    try:
        score: Any = symusic.Score.from_midi(data)  # symusic's types know only its generic base
        if score.tpq <= 0:
            raise Reject("broken", "its header says 0 ticks per quarter note.")
        _check_ticks(data, spans, score, limits.max_ticks)
        if len(score.tempos) and score.tempos.numpy()["mspq"].min() <= 0:
            raise Reject("broken", "it sets a tempo of 0 microseconds per quarter note.")
        tracks, joined = _tracks(score.to("second").tracks)
    except (RuntimeError, ValueError, UnicodeDecodeError, OverflowError) as error:
        raise Reject("broken", f"it is not a readable MIDI file ({_first_line(error)}).") from error
    piece = limits.check_piece(tracks, joined)
    return replace(piece, remark=remark) if remark else piece


def _unwrap(data: bytes) -> bytes:
    """The standard MIDI file inside a RIFF "RMID" file; other bytes as they are."""
    start = data.find(b"MThd", 12) if data[:4] == b"RIFF" and data[8:12] == b"RMID" else 0
    return data[max(start, 0) :]


def _mended(data: bytes) -> tuple[bytes, list[tuple[int, int]], str]:
    """A file with true lengths and numbers, first byte and end of each of its tracks, and what is to be said of it.

    A track ends at its end mark, whatever its length says. Most files are as they should be, and come back unchanged.

    Raises:
        Reject: a track was cut, or notes stand where no reader would look for them.
    """
    form, promised, division = struct.unpack(">HHh", data[8:_HEADER_BYTES])
    values = np.frombuffer(data, np.uint8)
    suspect = bool(((values + np.uint8(16)) < 15).any())  # holds F0 to FE, perhaps system messages
    tracks: list[bytes] = []
    spans: list[tuple[int, int]] = []
    n_others, changed, end = 0, False, _HEADER_BYTES
    while True:
        at = data.find(b"MTrk", end)
        between = data[end : at if at >= 0 else None]
        _check_between(between, len(tracks), promised)
        n_others += between[:4].isalnum()
        if at < 0:
            break
        start = at + 8
        stop = start + int.from_bytes(data[at + 4 : start], "big")
        exact = start <= len(data) and (stop == len(data) or data[stop : stop + 4] == b"MTrk")
        if exact and not suspect and data.find(_END_MARK, start, stop) == stop - 3:
            track, end = data[start:stop], stop
        else:
            track, end, differs = _mended_track(data, values, start, stop if exact else None, len(tracks) + 1)
            changed = changed or differs or end != stop
            if end < stop and _walk(values[end:stop])[4] > 0:
                raise Reject("broken", f"notes follow behind the end mark of its track {len(tracks) + 1}.")
        tracks.append(track)
        spans.append((start, end))
    if not tracks:
        raise Reject("broken", "no track follows its header.")
    remark = ""
    if len(tracks) + n_others < promised:
        remark = f"its header promises {promised} tracks; the {len(tracks)} that are there were read."
    if not changed and len(tracks) == promised:
        return data, spans, remark
    header = struct.pack(">4sIHHh", b"MThd", 6, 1 if form == 0 and len(tracks) > 1 else form, len(tracks), division)
    whole = [header, *(b"MTrk" + struct.pack(">I", len(track)) + track for track in tracks)]
    ends = list(accumulate(map(len, whole)))
    return b"".join(whole), [(first + 8, last) for first, last in pairwise(ends)], remark


def _check_between(between: bytes, number: int, promised: int) -> None:
    """Raise `Reject` where what stands between track `number` and the next holds music."""
    if b"MThd" in between:
        raise Reject("broken", f"a second MIDI file follows behind its track {number}; split it.")
    if between and number < promised and b"MTrk".startswith(between):
        raise Reject("broken", f"it was cut: it ends behind its track {number} of {promised}.")
    if len(between) > 8:
        from timbreflow.notes.compiled import ENDED

        state, *_, notes, _ = _walk(np.frombuffer(between, np.uint8)[8:])
        if state == ENDED and notes > 0:
            raise Reject("broken", f"what follows its track {number} reads like a track, but is not marked as one.")


def _walk(events: np.ndarray) -> tuple[int, int, int, int, int, bool]:
    from timbreflow.notes.compiled import walk

    found: tuple[int, int, int, int, int, bool] = walk(events, np.empty(0, np.uint8))
    return found


def _mended_track(
    data: bytes, values: np.ndarray, start: int, stop: int | None, number: int
) -> tuple[bytes, int, bool]:
    """Events of a track with an end mark, where they end, and whether they differ from what stands there.

    Args:
        data: the file.
        values: the same.
        start: first byte of the events.
        stop: where its length says that they end, if a track or the end of the file is there.
        number: of the track, from 1.

    Raises:
        Reject: it has no end, or holds what is no event.
    """
    from timbreflow.notes.compiled import ENDED, INVALID, OPEN, walk

    following = data.find(b"MTrk", start) if stop is None else stop
    events = values[start : following if following >= 0 else len(data)]
    out = np.empty(2 * len(events) + 4, np.uint8)
    state, walked, written, _, _, changed = walk(events, out)
    if state == INVALID:
        raise Reject("broken", f"its track {number} holds what is no MIDI event, at byte {start + walked}.")
    if state != ENDED and (state != OPEN or stop is None):
        raise Reject("broken", f"it was cut: its track {number} ends early, at byte {start + walked}.")
    end = start + walked
    if not changed and data[end - 3 : end] == _END_MARK:
        return data[start:end], end, False
    return out[:written].tobytes() + (_END_MARK if state == ENDED else b"\x00" + _END_MARK), end, True


def _check_ticks(data: bytes, spans: list[tuple[int, int]], score: Any, max_ticks: int) -> None:
    """Raise `Reject` for a file that runs past `max_ticks`, by events without notes or around 32 bits too."""
    values = np.frombuffer(data, np.uint8)
    end = int(score.end())
    if _may_run_long(values):
        end = max(end, *(_walk(values[first:last])[3] for first, last in spans))
    if end > max_ticks:
        raise Reject("too_many_ticks", f"it runs past tick {max_ticks}, the limit.")


def _may_run_long(values: np.ndarray) -> bool:
    """Whether a file could hold a delta of 2^21 ticks, or enough smaller ones to pass 2^31.

    A delta of four bytes has three in a row with their upper bit set, one of three bytes has two. A look costs a
    twentieth of a walk over all events, and few files need the walk.
    """
    pairs = values[1:] & values[:-1]
    triples = pairs[1:] & values[:-2]
    n_pairs = np.count_nonzero(pairs >= 0x80)
    return bool(triples.max(initial=0) >= 0x80 or n_pairs * 2**21 + len(values) // 2 * 2**14 >= 2**31)


def _tracks(tracks: Any) -> tuple[list[Track], Notes]:
    """Tracks of symusic in seconds, those left out in which no note can be heard; sorted all at once."""
    from timbreflow.notes.compiled import arrange

    parts = [raw_notes(track.notes) for track in tracks]
    counts = np.array([len(part) // RAW_NOTE.itemsize for part in parts], np.int64)
    *columns, ends = arrange(np.frombuffer(b"".join(parts), np.int32).reshape(-1, 3), counts)
    limits = [0, *ends.tolist()]
    heard = [
        Track(
            Notes(*(column[begin:end] for column in columns)),
            int(track.program),
            bool(track.is_drum),
            track.name.replace("\x00", "").strip(),
        )
        for track, begin, end in zip(tracks, limits, limits[1:], strict=False)
        if end > begin
    ]
    return heard, Notes(*columns)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _from_memory(notes: Any) -> memoryview:
    return memoryview(notes.__getstate__())[4:]


def _from_columns(notes: Any) -> memoryview:
    columns = notes.numpy()
    rows = np.zeros(len(columns["time"]), RAW_NOTE)
    for name in columns:
        rows[name] = columns[name]
    return memoryview(rows.tobytes())


def _promised() -> bool:
    """Whether notes lie in memory as `RAW_NOTE` says."""
    track: Any = symusic.Track(ttype="second")  # symusic's types know only its generic base
    for note in ((0.25, 1e6, 127, 1), (3.5, 0.1, 0, 100)):
        track.notes.append(symusic.Note(*note, ttype="second"))
    rows = np.frombuffer(_from_columns(track.notes), RAW_NOTE)
    try:
        found = np.frombuffer(_from_memory(track.notes), RAW_NOTE)
    except (AttributeError, TypeError, ValueError):
        return False
    return all(np.array_equal(found[name], rows[name]) for name in RAW_NOTE.names or ())


raw_notes: Callable[[Any], memoryview] = _from_memory if _promised() else _from_columns
"""Notes of a track whose times are seconds to bytes of `RAW_NOTE`.

What symusic pickles is its notes as they lie in memory, behind their number: a third of the time of its `numpy()`.
Nobody promises that, so it is tried once on two notes, and `numpy()` is asked where it does not hold.
"""
