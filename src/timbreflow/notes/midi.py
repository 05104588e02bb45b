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
_END_OF_TRACK = b"\xff\x2f\x00"


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
    values = np.frombuffer(data, np.uint8)
    end = int(score.end())
    if _may_run_long(values):
        from timbreflow.notes.compiled import last_tick

        ends = (last_tick(values[at : at + length]) for label, at, length in _chunks(data) if label == b"MTrk")
        end = max(end, *ends)
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


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
