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
from typing import Any

import numpy as np
import symusic

from timbreflow.notes.compiled import ENDED, INVALID, OPEN, arrange, number, walk, written_out
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
    last_tick, remark = 0, ""
    if data[:4] == b"MThd" and len(data) >= _HEADER_BYTES:  # of others symusic says what is wrong
        data, last_tick, remark = _mended(data)
    try:
        score: Any = symusic.Score.from_midi(data)  # symusic's types know only its generic base
        if score.tpq <= 0:
            raise Reject("broken", "its header says 0 ticks per quarter note.")
        if max(last_tick, int(score.end())) > limits.max_ticks:
            raise Reject("too_many_ticks", f"it runs past tick {limits.max_ticks}, the limit.")
        if len(score.tempos) and score.tempos.numpy()["mspq"].min() <= 0:
            raise Reject("broken", "it sets a tempo of 0 microseconds per quarter note.")
        tracks, joined = _tracks(score.to("second").tracks)
    except (RuntimeError, ValueError, UnicodeDecodeError, OverflowError) as error:
        raise Reject("broken", f"it is not a readable MIDI file ({_first_line(error)}).") from error
    piece = limits.check_piece(tracks, joined)
    return replace(piece, remark=remark) if remark else piece


def mended(data: bytes) -> bytes:
    """A file that `read_midi` takes, such that symusic reads all of its events.

    Raises:
        Reject: a track was cut, or notes stand where no reader would look for them.
    """
    data = _unwrap(data)
    return _mended(data)[0] if data[:4] == b"MThd" and len(data) >= _HEADER_BYTES else data


def _unwrap(data: bytes) -> bytes:
    """The standard MIDI file inside a RIFF "RMID" file; other bytes as they are."""
    start = data.find(b"MThd", 12) if data[:4] == b"RIFF" and data[8:12] == b"RMID" else 0
    return data[max(start, 0) :]


def _mended(data: bytes) -> tuple[bytes, int, str]:
    """A file with true lengths and numbers, its last tick where that may be large, and what is to be said of it.

    A track ends at its end mark, whatever its length says. Most files are as they should be, and come back unchanged.

    Raises:
        Reject: a track was cut, or notes stand where no reader would look for them.
    """
    form, promised, division = struct.unpack(">HHh", data[8:_HEADER_BYTES])
    values = np.frombuffer(data, np.uint8)
    suspect = _may_hide_notes(data, values) or _may_run_long(values)
    tracks: list[bytes] = []
    n_others, last_tick, changed, end = 0, 0, False, _HEADER_BYTES
    while True:
        at = data.find(b"MTrk", end)
        between = data[end : at if at >= 0 else None]
        _check_between(between, len(tracks), promised)
        n_others += between[:4].isalnum()
        if at < 0:
            break
        changed = changed or bool(between)  # which symusic would read as a chunk
        start = at + 8
        stop = start + int.from_bytes(data[at + 4 : start], "big")
        exact = start <= len(data) and (stop == len(data) or data[stop : stop + 4] == b"MTrk")
        if exact and not suspect and data.find(_END_MARK, start, stop) == stop - 3:
            track, end = data[start:stop], stop
        else:
            track, end, tick, differs = _mended_track(data, values, start, stop if exact else None, len(tracks) + 1)
            changed, last_tick = changed or differs or end != stop, max(last_tick, tick)
            if end < stop and walk(values[end:stop])[3] > 0:
                raise Reject("broken", f"notes follow behind the end mark of its track {len(tracks) + 1}.")
        tracks.append(track)
    if not tracks:
        raise Reject("broken", "no track follows its header.")
    remark = ""
    if len(tracks) + n_others < promised:
        remark = f"its header promises {promised} tracks; the {len(tracks)} that are there were read."
    if not changed and len(tracks) == promised:
        return data, last_tick, remark
    header = struct.pack(">4sIHHh", b"MThd", 6, 1 if form == 0 and len(tracks) > 1 else form, len(tracks), division)
    whole = [header, *(b"MTrk" + struct.pack(">I", len(track)) + track for track in tracks)]
    return b"".join(whole), last_tick, remark


def _may_hide_notes(data: bytes, values: np.ndarray) -> bool:
    """Whether a file could hold a system message that symusic loses notes behind.

    Most only hold a few F0 messages with a status behind them; a look at those costs a tenth of a walk over all events.
    """
    places = np.flatnonzero((values + np.uint8(16)) < 15).tolist()  # F0 to FE
    ends = set()
    for at in places:
        if data[at] == 0xF0 and len(places) < 64:
            ends.add(_end_of_harmless(data, values, at))
        elif data[at] != 0xF7 or at + 1 not in ends:
            return True
    return None in ends


def _end_of_harmless(data: bytes, values: np.ndarray, at: int) -> int | None:
    """Where the F0 message at `at` ends, if it is well formed and no running status follows; else None."""
    length, first = number(values, at + 1)
    end = first + length
    position = end
    while 0 <= data.find(b"\xf7", first, end) == end - 1 or length == 0:
        _, position = number(values, position)
        if position + 1 >= len(data) or data[position] < 0x80:
            return None
        if data[position] != 0xFF or data[position + 1] == 0x2F:
            return end  # of other system messages the caller knows too
        skipped, behind = number(values, position + 2)
        position = behind + skipped
    return None


def _check_between(between: bytes, n_before: int, promised: int) -> None:
    """Raise `Reject` where what stands between track `n_before` and the next holds music."""
    if b"MThd" in between:
        raise Reject("broken", f"a second MIDI file follows behind its track {n_before}; split it.")
    if between and n_before < promised and b"MTrk".startswith(between):
        raise Reject("broken", f"it was cut: it ends behind its track {n_before} of {promised}.")
    if len(between) > 8:
        state, *_, notes, _ = walk(np.frombuffer(between, np.uint8)[8:])
        if state == ENDED and notes > 0:
            raise Reject("broken", f"what follows its track {n_before} reads like a track, but is not marked as one.")


def _mended_track(
    data: bytes, values: np.ndarray, start: int, stop: int | None, place: int
) -> tuple[bytes, int, int, bool]:
    """Events of a track with an end mark, where they end, the last tick, and whether they differ from those there.

    Args:
        data: the file.
        values: the same.
        start: first byte of the events.
        stop: where its length says that they end, if a track or the end of the file is there.
        place: of the track among all, from 1.

    Raises:
        Reject: it has no end, or holds what is no event.
    """
    following = data.find(b"MTrk", start) if stop is None else stop
    events = values[start : following if following >= 0 else len(data)]
    state, walked, tick, _, hidden = walk(events)
    if state == INVALID:
        raise Reject("broken", f"its track {place} holds what is no MIDI event, at byte {start + walked}.")
    if state != ENDED and (state != OPEN or stop is None):
        raise Reject("broken", f"it was cut: its track {place} ends early, at byte {start + walked}.")
    end = start + walked
    if not hidden and data[end - 3 : end] == _END_MARK:
        return data[start:end], end, tick, False
    mark = _END_MARK if state == ENDED else b"\x00" + _END_MARK
    return written_out(events[:walked]).tobytes() + mark, end, tick, True


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
