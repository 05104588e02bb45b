"""MIDI files: the same notes as pretty_midi reads, and a true reason for each file that gives none."""

import io
import random
import resource
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pretty_midi
import pytest

from timbreflow.notes import compiled
from timbreflow.notes.pieces import ReadLimits, Reject
from timbreflow.notes.readers.midi import read_midi

END = b"\x00\xff\x2f\x00"


def variable_length(value: int) -> bytes:
    """A MIDI delta time."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F | 0x80)
    return bytes(reversed(digits))


def one_note(delta: int = 0, duration: int = 480) -> bytes:
    """Events of one note, `delta` ticks after the one before."""
    return variable_length(delta) + b"\x90\x3c\x50" + variable_length(duration) + b"\x80\x3c\x00"


def midi_file(*tracks: bytes, division: int = 480) -> bytes:
    """A format 1 file of these event streams."""
    header = b"MThd" + struct.pack(">IHHh", 6, 1, len(tracks), division)
    return header + b"".join(b"MTrk" + struct.pack(">I", len(events)) + events for events in tracks)


def reason(data: bytes, limits: ReadLimits) -> str:
    """Why a file is rejected; it has to be."""
    with pytest.raises(Reject) as caught:
        read_midi(data, limits)
    assert caught.value.detail.endswith(".")
    return caught.value.reason


def test_same_notes_as_pretty_midi_with_tempo_changes_programs_and_drums(limits: ReadLimits) -> None:
    midi = pretty_midi.PrettyMIDI(initial_tempo=90, resolution=480)
    generator = random.Random(3)
    for program, is_drum in ((0, False), (40, False), (40, True), (73, False)):
        part = pretty_midi.Instrument(program, is_drum, name=f"{program} {is_drum}")
        for k in range(200):
            start = 0.25 * k + generator.uniform(0, 0.1)
            part.notes.append(pretty_midi.Note(generator.randint(1, 127), 30 + k % 70, start, start + 0.1))
        midi.instruments.append(part)
    # pretty_midi keeps its tempo map in private fields; several tempos can be set in no other way.
    midi._tick_scales = [(0, 60.0 / (90 * 480)), (4000, 60.0 / (47 * 480)), (20000, 60.0 / (173.5 * 480))]
    midi._update_tick_to_time(200_000)
    file = io.BytesIO()
    midi.write(file)
    reference = pretty_midi.PrettyMIDI(io.BytesIO(file.getvalue()))
    piece = read_midi(file.getvalue(), limits)
    assert len(reference.get_tempo_changes()[1]) == 3
    assert len(piece.tracks) == len(reference.instruments) == 4
    by_kind = {(part.program, part.is_drum): part for part in reference.instruments}
    for track in piece.tracks:
        part = by_kind[track.program, track.is_drum]
        notes = sorted(part.notes, key=lambda note: (note.start, note.pitch))
        np.testing.assert_allclose(track.notes.onset, [note.start for note in notes], atol=1e-4)
        np.testing.assert_allclose(track.notes.duration, [note.end - note.start for note in notes], atol=1e-4)
        assert track.notes.pitch.tolist() == [note.pitch for note in notes]
        assert track.notes.velocity.tolist() == [note.velocity for note in notes]
        assert track.name == part.name


def test_a_change_of_program_makes_two_tracks(limits: ReadLimits) -> None:
    events = b"\x00\xc0\x05" + one_note() + b"\x00\xc0\x09" + one_note() + END
    assert [track.program for track in read_midi(midi_file(events), limits).tracks] == [5, 9]


def test_riff_wrapper_and_odd_headers_are_read(limits: ReadLimits) -> None:
    plain = midi_file(one_note() + END)
    wrapped = b"RIFF" + struct.pack("<I", len(plain) + 12) + b"RMIDdata" + struct.pack("<I", len(plain)) + plain
    other_chunk = plain[:14] + b"XFIH" + struct.pack(">I", 3) + b"abc" + plain[14:]
    padded = midi_file(one_note() + END + bytes(7))
    trailing = plain + b"\r\nDownloaded from somewhere"
    for data in (plain, wrapped, other_chunk, padded, trailing):
        assert read_midi(data, limits).n_notes == 1


SCALE = b"\x00\x90" + b"".join(bytes([p, 80, 0x60, p, 0, 0]) for p in range(40, 52))[:-1]
"""Twelve notes under one running status."""
SYSTEM = {
    "sysex": b"\xf0\x05\x7e\x7f\x09\x01\xf7",
    "empty sysex": b"\xf0\x00",
    "sysex in two packets": b"\xf0\x02\x43\x12\x00\xf7\x02\x05\xf7",
    "escape": b"\xf7\x02\xf3\x01",
    "quarter frame": b"\xf1\x05",
    "song position": b"\xf2\x05\x06",
    "song": b"\xf3\x05",
    "tune request": b"\xf6",
    **{f"real time {status:x}": bytes([status]) for status in range(0xF8, 0xFF)},
    "text": b"\xff\x01\x02%+",
}


@pytest.mark.parametrize("name", SYSTEM)
@pytest.mark.parametrize("place", [1, 5, 12, 23])
def test_notes_behind_a_system_message_are_read(name: str, place: int, limits: ReadLimits) -> None:
    """Running status goes on over it, as programs write that forget to begin anew."""
    at = 4 + 3 * (place - 1)  # behind so many events
    whole = read_midi(midi_file(SCALE + END), limits)
    for events in (
        SCALE[:at] + b"\x00" + SYSTEM[name] + SCALE[at:] + END,
        SCALE[:at] + b"\x00" + SYSTEM[name] + b"\x00" + SYSTEM["song"] + SCALE[at:] + END,
    ):
        found = read_midi(midi_file(one_note() + END, events), limits)
        assert found.n_notes == 13
        assert found.tracks[1].notes.onset.tolist() == whole.notes.onset.tolist()


@pytest.mark.parametrize(
    "events",
    [b"\xf4", b"\xf5\x01", b"\xf1\x90", b"\xf0\x41\x10\x42\xf7\x00\x90" + bytes(70)],
    ids=["f4", "f5", "no data", "on the wire"],
)
def test_system_messages_that_cannot_be_skipped_are_broken(events: bytes, limits: ReadLimits) -> None:
    assert reason(midi_file(one_note() + b"\x00" + events + one_note() * 30 + END), limits) == "broken"


def claims(data: bytes, number: int, more: int) -> bytes:
    """The file with another length in the header of a track."""
    at = [place for place in range(len(data)) if data.startswith(b"MTrk", place)][number] + 4
    return data[:at] + struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + more) + data[at + 4 :]


def header(data: bytes, form: int, n_tracks: int) -> bytes:
    """The file with another format and number of tracks."""
    return data[:8] + struct.pack(">HH", form, n_tracks) + data[12:]


TWO = midi_file(one_note() * 3 + END, one_note() * 2 + END)
FOREIGN = b"XFIH\x00\x00\x00\x04\x00\xff\x01\x00"
ODD_COUNTS: dict[str, bytes] = {
    **{
        f"{number} claims {more}": claims(TWO, number, more)
        for number in (0, 1)
        for more in (-9, -4, -1, 1, 3, 8, 2**31)
    },
    "swallows the second": claims(TWO, 0, len(one_note()) * 2 + 12),
    "says 1": header(TWO, 1, 1),
    "says 0": header(TWO, 1, 0),
    "says 3, one is foreign": header(TWO[:14] + FOREIGN + TWO[14:], 1, 3),
    "foreign at the end": TWO + FOREIGN,
    "format 0": header(TWO, 0, 2),
    "format 0 of 1": header(TWO, 0, 1),
    "no end mark": midi_file(one_note() * 3, one_note() * 2 + END),
    "no end marks": midi_file(one_note() * 3, one_note() * 2),
    "end mark cut": midi_file(one_note() * 3 + END, one_note() * 2 + END[:-1]),
    "file cut in the end mark": TWO[:-1],
    **{
        f"{number} zeros between": bytes(number).join((TWO[: TWO.rindex(b"MTrk")], TWO[TWO.rindex(b"MTrk") :]))
        for number in (1, 2, 3, 4, 7, 8, 12)
    },
    "padded": midi_file(one_note() * 3 + END + bytes(5), one_note() * 2 + END),
}


@pytest.mark.parametrize("name", ODD_COUNTS)
def test_wrong_lengths_and_counts_lose_no_note(name: str, limits: ReadLimits) -> None:
    piece = read_midi(ODD_COUNTS[name], limits)
    assert (piece.piece_id, piece.remark) == (read_midi(TWO, limits).piece_id, "")


def test_tracks_that_are_missing_are_remarked(limits: ReadLimits) -> None:
    piece = read_midi(header(TWO, 1, 3), limits)
    assert piece.n_notes == 5
    assert piece.remark == "its header promises 3 tracks; the 2 that are there were read."


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "text": b"Dear diary, this is not music.",
    "cut": midi_file(one_note() * 50 + END)[:120],
    "cut in a chunk's header": midi_file(one_note() + END, one_note() + END)[: -len(one_note() + END) - 3],
    "cut in a chunk's name": midi_file(one_note() + END, one_note() + END)[: -len(one_note() + END) - 6],
    "a track of another name": TWO[:60].replace(b"MTrk", b"MTrX") + TWO[60:],
    "last track of another name": b"MTrX".join(TWO.rsplit(b"MTrk", 1)),
    "two files": TWO + TWO,
    "notes behind the end mark": midi_file(one_note() + END + one_note() + END),
    "no end of track and cut": claims(midi_file(one_note()), 0, 9),
    "header only": midi_file(one_note() + END)[:14],
    "random": random.Random(1).randbytes(5000),
    "header and random": midi_file(b"")[:14] + random.Random(2).randbytes(5000),
    "division 0": midi_file(one_note() + END, division=0),
    "film frames": midi_file(one_note() + END, division=-(25 << 8) + 40),
    "tempo 0": midi_file(b"\x00\xff\x51\x03\x00\x00\x00" + one_note() + END),
    "endless text": midi_file(b"\x00\xff\x01\xff\xff\xff\x7f" + END),
    "endless number": midi_file(b"\xff" * 40),
    "velocity 200": midi_file(b"\x00\x90\x3c\xc8" + one_note() + END),
    "no status": midi_file(b"\x00\x3c\x50" + one_note() + END),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_rejected_as_broken(name: str, limits: ReadLimits) -> None:
    assert reason(BROKEN[name], limits) == "broken"


def test_a_file_cut_anywhere_is_broken_or_says_what_is_missing(limits: ReadLimits, song: Callable[..., bytes]) -> None:
    data = song(programs=(0, 40, 73))
    # Between two tracks a cut file is one whose header promises too much; there and in an end mark, no note is cut.
    between = [place for place in range(30, len(data)) if data.startswith(b"MTrk", place)]
    ends = [*between[1:], len(data)]
    for length in range(len(data)):
        if length in ends or length + 1 in ends:
            piece = read_midi(data[:length], limits)
            assert piece.n_notes == 24 * sum(length >= end - 1 for end in ends)
            assert bool(piece.remark) == (length < len(data) - 1)
        else:
            assert reason(data[:length], limits) == ("no_notes" if length - between[0] in {-1, 0} else "broken")


def test_a_file_that_claims_gigabytes_gets_none(limits: ReadLimits) -> None:
    compiled.load()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_midi(claims(TWO, 1, 2**31 - 1), limits).n_notes == 5
    reason(midi_file(one_note(0x0FFFFFFF) * 7 + END), limits)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.parametrize(
    "events",
    [
        one_note() + one_note(20_000_000),
        one_note(0, 20_000_000),
        one_note() + variable_length(20_000_000) + b"\xff\x2f\x00",
        # 2^32 ticks and a few: symusic's counter would be back at its start
        one_note() + (variable_length(2**28 - 1) + b"\xff\x01\x00") * 16 + one_note(16),
        one_note() + (variable_length(2**28 - 1) + b"\xff\x01\x00") * 9 + one_note(),
    ],
    ids=["late note", "long note", "late end", "once around", "negative"],
)
def test_more_than_ten_million_ticks(events: bytes, limits: ReadLimits) -> None:
    assert reason(midi_file(events + END), limits) == "too_many_ticks"


def test_ticks_up_to_the_limit_are_read(limits: ReadLimits) -> None:
    long_but_quick = b"\x00\xff\x51\x03\x00\x27\x10" + one_note() + one_note(9_999_000 - 480, 100) + END
    assert read_midi(midi_file(long_but_quick), limits).n_notes == 2


def test_no_notes_and_drums_only(limits: ReadLimits, song: Callable[..., bytes]) -> None:
    assert reason(midi_file(END), limits) == "no_notes"
    assert reason(midi_file(b"\x00\x90\x3c\x50" + END), limits) == "no_notes"  # never ends
    assert reason(song(programs=(), drums=True), limits) == "drums_only"
    tracks = read_midi(song(programs=(3,), drums=True), limits).tracks
    assert sorted(track.is_drum for track in tracks) == [False, True]


def test_each_limit_has_its_reason(limits: ReadLimits, song: Callable[..., bytes]) -> None:
    data = song()  # 48 notes, 11.9 s
    assert reason(data, replace(limits, max_bytes=len(data) - 1)) == "too_large"
    assert reason(data, replace(limits, max_notes=47)) == "too_large"
    assert reason(data, replace(limits, max_duration=11.0)) == "too_long"
    assert reason(data, replace(limits, max_ticks=1000)) == "too_many_ticks"
    assert reason(data, replace(limits, min_notes=49)) == "too_few_notes"


def test_damaged_files_never_raise_anything_but_reject(limits: ReadLimits, song: Callable[..., bytes]) -> None:
    generator = random.Random(7)
    good = song(drums=True)
    rejected = 0
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(generator.choice((1, 3, 10))):
            where = generator.randrange(len(data) - 20)
            if generator.random() < 0.7:
                data[where] = generator.randrange(256)
            else:
                data[where : where + generator.randrange(8)] = generator.randbytes(generator.randrange(8))
        try:
            piece = read_midi(bytes(data), limits)
        except Reject:
            rejected += 1
        else:
            assert all(np.isfinite(track.notes.onset).all() and track.notes.onset.min() >= 0 for track in piece.tracks)
            assert all(track.notes.duration.min() > 0 for track in piece.tracks)
    assert 0 < rejected < 3000
