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
def _number(data: np.ndarray, position: int) -> tuple[int, int]:
    """A number of one to four bytes and the position after it, which lies behind the data where that ends too early."""
    value = 0
    for at in range(position, position + 4):
        if at >= len(data):
            return value, len(data) + 1
        value = value << 7 | data[at] & 0x7F
        if data[at] < 0x80:
            return value, at + 1
    return value, position + 4


@compiled
def last_tick(events: np.ndarray) -> int:
    """Tick of the last event of one MTrk chunk: [n] uint8; ends where the chunk is damaged, which symusic reports."""
    tick, position, status = 0, 0, 0
    while position < len(events):
        delta, position = _number(events, position)
        if position >= len(events):
            return tick + delta if position == len(events) else tick
        tick += delta
        if events[position] >= 0x80:
            status = events[position]
            position += 1
        if status in (0xF0, 0xF7, 0xFF):
            length, position = _number(events, position + 1 if status == 0xFF else position)
            position += length
        elif 0x80 <= status < 0xF0:
            position += 1 if status >> 4 in (0xC, 0xD) else 2
    return tick


def load() -> None:
    """Compile all of this, or load it from the cache: seconds that no file should be blamed for."""
    raw = np.frombuffer(bytes(12), np.int32).reshape(1, 3)
    onset, duration, pitch, velocity, ends = arrange(raw, np.array([1]))
    in_milliseconds(onset, duration, pitch, velocity, ends)
    numbers_of_tracks(onset, duration, pitch, ends)
    last_tick(np.frombuffer(b"\0", np.uint8))
