"""The loops over single notes and bytes, compiled: numpy would walk over a file of Lakh some fifty times.

Import it where it is called: numba takes a quarter of a second, which no command line should wait for.
"""

import numpy as np

from timbreflow.compiling import compiled

_MOST_MOVES = 16
"""Moves a note after which insertion gives up: files are nearly sorted, or not at all."""


@compiled
def _insert(first: np.ndarray, second: np.ndarray) -> bool:
    """Sort pairs of numbers in place, where that takes few moves; whether it did."""
    moves = _MOST_MOVES * len(first)
    for i in range(1, len(first)):
        a, b = first[i], second[i]
        at = i
        while at > 0 and (first[at - 1] > a or (first[at - 1] == a and second[at - 1] > b)):
            first[at], second[at] = first[at - 1], second[at - 1]
            at -= 1
        first[at], second[at] = a, b
        moves -= i - at
        if moves < 0:
            return False
    return True


@compiled
def _sort(first: np.ndarray, second: np.ndarray) -> None:
    """Sort pairs of numbers in place."""
    if not _insert(first, second):
        for key in (second, first):  # by the less important one first, and stably
            order = np.argsort(key, kind="mergesort")
            first[:], second[:] = first[order], second[order]


@compiled
def arrange(raw: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Notes that can be heard, each track sorted by onset, pitch, duration and velocity.

    Args:
        raw: [n, 3] int32, the bytes of `RAW_NOTE`: bits of onset and duration, then pitch and velocity.
        counts: notes of each track.

    Returns:
        onset, duration: [m] float32, in s.
        pitch, velocity: [m] uint8.
        ends: [tracks] int64, where each track ends among the m.
    """
    when = np.empty(len(raw), np.int64)
    what = np.empty(len(raw), np.int64)
    ends = np.empty(len(counts), np.int64)
    kept, read = 0, 0
    for track in range(len(counts)):
        begin = kept
        for _ in range(counts[track]):
            onset, duration, pair = raw[read, 0], raw[read, 1], raw[read, 2]
            read += 1
            # The bits of positive floats have the order of the floats; those of -0.0 are the smallest number.
            if onset == np.int32(-(2**31)):
                onset = np.int32(0)
            pitch, velocity = pair & 0xFF, (pair >> 8) & 0xFF
            if 0 <= onset <= 0x7F800000 and 0 < duration <= 0x7F800000 and 0 < velocity < 0x80:
                when[kept] = np.int64(onset) << 8 | pitch
                what[kept] = np.int64(duration) << 8 | velocity
                kept += 1
        _sort(when[begin:kept], what[begin:kept])
        ends[track] = kept
    times = np.empty((2, kept), np.int32)
    pitches, velocities = np.empty(kept, np.uint8), np.empty(kept, np.uint8)
    for i in range(kept):
        times[0, i], pitches[i] = when[i] >> 8, when[i] & 0xFF
        times[1, i], velocities[i] = what[i] >> 8, what[i] & 0xFF
    seconds = times.view(np.float32)
    return seconds[0], seconds[1], pitches, velocities, ends


@compiled
def in_milliseconds(
    onset: np.ndarray, duration: np.ndarray, pitch: np.ndarray, velocity: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """What tells a piece from another: the notes of each track in whole ms, sorted by them.

    Args:
        onset: [n] float32, in s.
        duration: [n] float32, in s.
        pitch: [n] uint8.
        velocity: [n] uint8.
        ends: where each track ends.

    Returns:
        [4 n] int64: for each track its onsets, durations, pitches and velocities.
    """
    rows = np.empty(4 * len(onset), np.int64)
    begin = 0
    for end in ends:
        count = end - begin
        track = rows[4 * begin : 4 * end].reshape(4, count)
        when, what = track[0], track[1]
        for i in range(count):
            when[i] = np.int64(np.rint(np.float64(onset[begin + i]) * 1000.0)) << 8 | pitch[begin + i]
            what[i] = np.int64(np.rint(np.float64(duration[begin + i]) * 1000.0)) << 8 | velocity[begin + i]
        _sort(when, what)
        for i in range(count):
            track[2, i], track[3, i] = when[i] & 0xFF, what[i] & 0xFF
            when[i] >>= 8
            what[i] >>= 8
        begin = end
    return rows


@compiled
def numbers_of_tracks(
    onset: np.ndarray, duration: np.ndarray, pitch: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Of each track the mean pitch, and the mean number of notes sounding while any sounds; the end of the last note.

    Args:
        onset: [n] float32, in s, sorted in each track.
        duration: [n] float32, in s.
        pitch: [n] uint8.
        ends: where each track ends.

    Returns:
        [tracks] float64 twice, and s in the precision of the notes.
    """
    pitches, voices = np.empty(len(ends), np.float64), np.empty(len(ends), np.float64)
    begin, last = 0, np.float32(0)
    for track in range(len(ends)):
        sounding, played, latest, total = 0.0, 0.0, 0.0, 0
        for i in range(begin, ends[track]):
            start = np.float64(onset[i])
            end = start + np.float64(duration[i])
            last = max(last, np.float32(onset[i] + duration[i]))
            played += end - start
            total += pitch[i]
            # A stretch of sound ends where the latest end so far lies before the next onset.
            if end > latest:
                sounding += end - max(latest, start)
                latest = end
        voices[track] = played / sounding if sounding > 0 else 1.0
        pitches[track] = total / max(ends[track] - begin, 1)
        begin = ends[track]
    return pitches, voices, float(last)


@compiled
def number(data: np.ndarray, position: int) -> tuple[int, int]:
    """A number of one to four bytes and the position after it, which lies behind the data where that ends too early."""
    value = 0
    for at in range(position, position + 4):
        if at >= len(data):
            return value, len(data) + 1
        value = value << 7 | data[at] & 0x7F
        if data[at] < 0x80:
            return value, at + 1
    return value, position + 4


ENDED, OPEN, CUT, INVALID = range(4)
"""How a walk over a track stops: at the end mark, without one, in the middle of an event, at what is no event."""

_DATA_BYTES = np.repeat(np.array([2, 2, 2, 2, 1, 1, 2, 0]), 16)  # of the statuses from 0x80
_DATA_BYTES[0xF1 - 0x80 : 0xF6 - 0x80] = (1, 2, 1, -1, -1)


@compiled
def _system_end(events: np.ndarray, at: int) -> int:
    """Where the system or meta message at `at` ends, perhaps behind the data; -1 where it is none."""
    kind = events[at]
    if kind == 0xFF:
        length, first = number(events, at + 2)
        return first + length
    if kind == 0xF0 or kind == 0xF7:  # noqa: PLR1714 - numba knows no sets of numbers
        length, first = number(events, at + 1)
        # A message with its end before its end was written as on the wire, without its length.
        whole = kind == 0xF7 or np.count_nonzero(events[first : first + length - 1] == 0xF7) == 0
        return first + length if whole else -1
    end = at + 1 + _DATA_BYTES[kind - 0x80]
    for i in range(at + 1, min(end, len(events))):
        if events[i] >= 0x80:
            return -1
    return end if end > at else -1


@compiled
def walk(events: np.ndarray) -> tuple[int, int, int, int, bool]:
    """Walk over the events of one track: [n] uint8.

    Returns:
        Why it stops (`ENDED`, `OPEN`, `CUT` or `INVALID`); bytes walked over; tick of the last event; notes that begin;
        whether `written_out` has to be asked for symusic.
    """
    at, tick, notes, status = 0, 0, 0, 0
    fresh, hidden = True, False  # whether symusic still knows the status
    while at < len(events):
        begin = at
        delta = int(events[at])
        at += 1
        if delta >= 0x80:
            delta, at = number(events, begin)
        if at >= len(events):
            return CUT, begin, tick + delta if at == len(events) else tick, notes, hidden
        tick += delta
        kind = int(events[at])
        if kind < 0xF0:
            if kind >= 0x80:
                status, fresh, at = kind, True, at + 1
            hidden |= not fresh
            at += _DATA_BYTES[status - 0x80] if status else 0
            if status >> 4 == 9 and at <= len(events) and events[at - 1] > 0:
                notes += 1
            end = at if status else -1
        else:
            if kind == 0xFF and at + 1 < len(events) and events[at + 1] == 0x2F:
                return ENDED, min(at + 3, len(events)), tick, notes, hidden
            end = _system_end(events, at)
            fresh = fresh and kind == 0xFF
            hidden |= 0xF0 < kind < 0xFF
        if end < 0 or end > len(events):
            return INVALID if end < 0 else CUT, begin, tick, notes, hidden
        at = end
    return OPEN, at, tick, notes, hidden


@compiled
def written_out(events: np.ndarray) -> np.ndarray:
    """The events of a track so that symusic reads all of them: [n] uint8, as far as `walk` came, without an end mark.

    symusic takes a running status over a system message for that message again, and skips what follows. So each status
    is written out. It takes the length of an F7 packet for a delta time, so those become messages of a sequencer;
    system messages that a file may not hold (F1 and above) become empty texts.
    """
    out = np.empty(2 * len(events) + 4, np.uint8)
    at, made, status = 0, 0, 0
    while at < len(events):
        _, body = number(events, at)
        out[made : made + body - at] = events[at:body]
        made += body - at
        kind = events[body]
        if kind < 0xF0:
            status = kind if kind >= 0x80 else status
            out[made] = status
            made += 1
            body += kind >= 0x80
            at = body + _DATA_BYTES[status - 0x80]
        elif kind == 0xFF and events[body + 1] == 0x2F:
            break
        else:
            at = _system_end(events, body)
            if 0xF0 < kind < 0xFF:
                out[made : made + 3] = (0xFF, 0x7F, 0x00) if kind == 0xF7 else (0xFF, 0x01, 0x00)
                made += 2 if kind == 0xF7 else 3
                body = body + 1 if kind == 0xF7 else at
        out[made : made + at - body] = events[body:at]
        made += at - body
    return out[:made]


def load() -> None:
    """Compile all of this, or load it from the cache: seconds that no file should be blamed for."""
    raw = np.frombuffer(bytes(12), np.int32).reshape(1, 3)
    onset, duration, pitch, velocity, ends = arrange(raw, np.array([1]))
    in_milliseconds(onset, duration, pitch, velocity, ends)
    numbers_of_tracks(onset, duration, pitch, ends)
    walk(np.frombuffer(b"\0", np.uint8))
