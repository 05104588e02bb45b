"""The compiled loops against numpy and Python that say the same in words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timbreflow.notes.compiled import CUT, ENDED, OPEN, _insert, arrange, walk
from timbreflow.notes.readers.midi import RAW_NOTE

SECONDS = st.sampled_from([-1.0, -0.0, 0.0, 0.25, 0.5, float("nan")]) | st.floats(0, 100, width=32)
NOTE = st.tuples(SECONDS, SECONDS, st.integers(0, 127), st.integers(-1, 127))


def lexsorted(track: np.ndarray) -> np.ndarray:
    heard = track[(track["time"] >= 0) & (track["duration"] > 0) & (track["velocity"] > 0)]
    return heard[np.lexsort((heard["velocity"], heard["duration"], heard["pitch"], heard["time"]))]


@given(st.lists(st.lists(NOTE, max_size=40), max_size=4))
def test_notes_that_can_be_heard_are_sorted_within_their_track(
    tracks: list[list[tuple[float, float, int, int]]],
) -> None:
    raw = np.array([note for track in tracks for note in track], RAW_NOTE)
    counts = np.array([len(track) for track in tracks], np.int64)
    onset, duration, pitch, velocity, ends = arrange(raw.view(np.int32).reshape(-1, 3), counts)
    expected = [lexsorted(np.array(track, RAW_NOTE)) for track in tracks]
    assert ends.tolist() == np.cumsum([len(track) for track in expected]).tolist()
    rows = np.concatenate(expected) if expected else raw
    for found, name in ((onset, "time"), (duration, "duration"), (pitch, "pitch"), (velocity, "velocity")):
        assert np.array_equal(found, rows[name])


def test_notes_in_any_order_are_sorted_in_good_time() -> None:
    """Where insertion would move half of all notes for each note, it gives up."""
    rows = np.zeros(200_000, RAW_NOTE)
    rows["time"], rows["duration"], rows["velocity"] = np.arange(len(rows))[::-1], 1, 64
    rows["pitch"] = np.arange(len(rows)) % 128
    assert not _insert(np.arange(100_000)[::-1].copy(), np.zeros(100_000, np.int64))
    onset, _, pitch, _, _ = arrange(rows.view(np.int32).reshape(-1, 3), np.array([len(rows)]))
    assert np.array_equal(onset, np.arange(len(rows))) and np.array_equal(pitch, rows["pitch"][::-1])


def variable(value: int) -> bytes:
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F | 0x80)
    return bytes(reversed(parts))


EVENTS = st.one_of(
    st.tuples(st.sampled_from([0x80, 0x91, 0xA2, 0xB3, 0xE4]), st.binary(min_size=2, max_size=2)),
    st.tuples(st.sampled_from([0xC5, 0xD6]), st.binary(min_size=1, max_size=1)),
    st.tuples(st.just(0xF0), st.binary(max_size=300).map(lambda data: bytes(byte & 0x7F for byte in data))),
    st.tuples(st.just(0xFF), st.binary(max_size=300)),
)


@given(st.lists(st.tuples(st.integers(0, 2**28 - 1), EVENTS), max_size=20))
def test_the_last_tick_is_the_sum_of_all_deltas(events: list[tuple[int, tuple[int, bytes]]]) -> None:
    data = b""
    for delta, (status, payload) in events:
        data += variable(delta) + bytes([status])
        if status < 0xF0:
            data += bytes(byte & 0x7F for byte in payload)
        else:
            data += (b"\x01" if status == 0xFF else b"") + variable(len(payload)) + payload
    out = np.empty(2 * len(data) + 4, np.uint8)
    state, walked, written, tick, _, changed = walk(np.frombuffer(data, np.uint8), out)
    assert (state, walked, tick) == (OPEN, len(data), sum(delta for delta, _ in events))
    assert not changed and out[:written].tobytes() == data
    assert walk(np.frombuffer(data + b"\x00\xff\x2f\x00", np.uint8), out)[:2] == (ENDED, len(data) + 4)


@pytest.mark.parametrize(
    ("data", "tick"),
    [
        (b"", 0),
        (b"\x81", 0),
        (b"\x05", 5),
        (b"\x05\xff", 5),
        (b"\x05\xff\x01\xff\xff\xff", 5),
        (b"\xff" * 9, 2**28 - 1),
    ],
)
def test_damaged_tracks_end_the_walk(data: bytes, tick: int) -> None:
    # Bytes behind the track would be counted if they were read.
    behind = np.frombuffer(data + b"\x01\x90\x40\x40" * 8, np.uint8)
    found = walk(behind[: len(data)], np.empty(0, np.uint8))
    assert found[3] == tick and found[0] == (CUT if data else OPEN)
