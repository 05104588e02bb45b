"""MusicXML: every reading rule on a small score, and real scores against music21's own parser."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from timbreflow.notes.pieces import Piece, ReadLimits, Reject, Track
from timbreflow.notes.readers.musicxml import read_musicxml
from timbreflow.notes.sources.corpora import package_folder


def score(*parts: str, part_list: str = "") -> bytes:
    """A partwise score; each part is the XML of its measures."""
    body = "".join(f'<part id="P{number}">{part}</part>' for number, part in enumerate(parts, 1))
    return f"<score-partwise><part-list>{part_list}</part-list>{body}</score-partwise>".encode()


def note(pitch: str, duration: int, extra: str = "", *, chord: bool = False, alter: int = 0) -> str:
    """A note such as C4; `extra` is XML after the duration."""
    pitch = f"<pitch><step>{pitch[0]}</step><alter>{alter}</alter><octave>{pitch[1]}</octave></pitch>"
    return f"<note>{'<chord/>' if chord else ''}{pitch}<duration>{duration}</duration>{extra}</note>"


# 2 divisions a quarter, 60 quarters a minute: a duration of 2 is 1 s.
START = "<attributes><divisions>2</divisions></attributes><sound tempo='60'/>"
TIE = {"start": "<tie type='start'/>", "stop": "<tie type='stop'/>", "both": "<tie type='stop'/><tie type='start'/>"}


def rows(track: Track) -> list[tuple[float, float, int]]:
    """(onset, duration, pitch) of each note."""
    columns = (track.notes.onset.tolist(), track.notes.duration.tolist(), track.notes.pitch.tolist())
    return list(zip(*columns, strict=True))


def read_one(measures: str, limits: ReadLimits) -> Track:
    """The only track of a score of one part."""
    (track,) = read_musicxml(score(measures), limits).tracks
    return track


def test_chords_rests_and_voices(limits: ReadLimits) -> None:
    rest = "<note><rest/><duration>2</duration></note>"
    upper = note("C5", 2) + note("E5", 2, chord=True) + rest + note("D5", 4)
    lower = "<backup><duration>8</duration></backup><forward><duration>4</duration></forward>" + note("C3", 4)
    track = read_one(f"<measure>{START}{upper}{lower}</measure><measure>{note('C4', 2)}</measure>", limits)
    assert rows(track) == [(0, 1, 72), (0, 1, 76), (2, 2, 48), (2, 2, 74), (4, 1, 60)]


def test_ties_join_over_barlines_but_repeated_notes_do_not(limits: ReadLimits) -> None:
    first = note("C4", 2) + note("C4", 2) + note("E4", 4, TIE["start"])
    second = note("E4", 8, TIE["both"])
    third = note("E4", 2, TIE["stop"]) + note("E4", 2)
    track = read_one(f"<measure>{START}{first}</measure><measure>{second}</measure><measure>{third}</measure>", limits)
    assert rows(track) == [(0, 1, 60), (1, 1, 60), (2, 7, 64), (9, 1, 64)]


def test_tempo_of_one_part_counts_for_all(limits: ReadLimits) -> None:
    metronome = "<direction><direction-type><metronome><beat-unit>half</beat-unit><per-minute>60</per-minute>"
    metronome += "</metronome></direction-type></direction>"
    leader = f"<measure>{START}{note('C4', 8)}</measure><measure>{metronome}{note('C4', 8)}</measure>"
    follower = (
        f"<measure><attributes><divisions>1</divisions></attributes>{note('C3', 4)}</measure>"
        f"<measure>{note('C3', 4)}</measure>"
    )
    for track in read_musicxml(score(leader, follower), limits).tracks:
        assert [row[:2] for row in rows(track)] == [(0, 4), (4, 2)]


def test_transposing_instruments_sound_where_they_sound(limits: ReadLimits) -> None:
    transpose = (
        "<attributes><transpose><chromatic>-2</chromatic><octave-change>-1</octave-change></transpose></attributes>"
    )
    track = read_one(f"<measure>{START}{note('C4', 2, alter=1)}{transpose}{note('C4', 2, alter=1)}</measure>", limits)
    assert track.notes.pitch.tolist() == [61, 47]


def test_grace_cue_and_unpitched_notes_are_left_out(limits: ReadLimits) -> None:
    grace = "<note><grace/><pitch><step>C</step><octave>4</octave></pitch></note>"
    cue = "<note><cue/><pitch><step>C</step><octave>4</octave></pitch><duration>2</duration></note>"
    drum = "<note><unpitched/><duration>2</duration></note>"
    assert rows(read_one(f"<measure>{START}{grace}{cue}{drum}{note('G4', 2)}</measure>", limits)) == [(2, 1, 67)]


def test_dynamics_and_metre_shape_velocities(limits: ReadLimits) -> None:
    loud = "<direction><direction-type><dynamics><ff/></dynamics></direction-type></direction>"
    track = read_one(f"<measure>{START}{note('C4', 1) * 4}{loud}{note('C4', 2) * 2}</measure>", limits)
    soft, strong = track.notes.velocity[:4].astype(int), track.notes.velocity[4:].astype(int)
    assert strong.min() > soft.max()
    assert soft[0] > soft[2] > soft[1] == soft[3]


def test_programs_and_drum_channels_come_from_the_part_list(limits: ReadLimits) -> None:
    part = f"<measure>{START}{note('C4', 2)}</measure>"
    instrument = "<midi-instrument><midi-channel>{}</midi-channel><midi-program>41</midi-program></midi-instrument>"
    part_list = "".join(
        f'<score-part id="P{number}"><part-name> Part {number} </part-name>{xml}</score-part>'
        for number, xml in ((1, instrument.format(1)), (2, ""), (3, instrument.format(10)))
    )
    tracks = read_musicxml(score(part, part, part, part_list=part_list), limits).tracks
    assert [(track.program, track.is_drum, track.name) for track in tracks] == [
        (40, False, "Part 1"),
        (-1, False, "Part 2"),
        (40, True, "Part 3"),
    ]


def zipped(**members: bytes) -> bytes:
    """A zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return file.getvalue()


def test_compressed_scores_and_what_is_wrong_with_them(limits: ReadLimits) -> None:
    plain = score(f"<measure>{START}{note('C4', 2)}</measure>")
    container = b'<container><rootfiles><rootfile full-path="b.xml"/></rootfiles></container>'
    compressed = zipped(**{"a.xml": b"<wrong/>", "b.xml": plain, "META-INF__container.xml": container})
    assert read_musicxml(compressed, limits).piece_id == read_musicxml(plain, limits).piece_id
    bomb = zipped(**{"a.xml": b" " * (limits.max_bytes + 10)})
    assert len(bomb) < 10_000
    with pytest.raises(Reject, match="too_large"):
        read_musicxml(bomb, limits)
    damaged = bytearray(compressed)
    damaged[60:90] = b"\x00" * 30
    for data in (compressed[:-30], b"PK\x03\x04", zipped(**{"a.txt": b"x"}), bytes(damaged)):
        with pytest.raises(Reject, match="broken|no_notes"):
            read_musicxml(data, limits)


LAUGHS = b'<!DOCTYPE z [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY a%d "%s">' % (n, b"&a%s;" % (str(n - 1).encode() if n > 1 else b"") * 10) for n in range(1, 10)
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"some text",
        b"<score-timewise/>",
        b"<html><body/></html>",
        score(f"<measure>{START}{note('H4', 2)}</measure>"),
        score(f"<measure>{START}{note('C4', 2).replace('>2<', '>two<')}</measure>"),
        score(f"<measure>{START}{note('C4', 2).replace('>2<', '>nan<')}</measure>"),
        score(f"<measure>{START}{note('C4', 2).replace('>2<', '>1e999<')}</measure>"),
        score(f"<measure>{START}{note('C4', 2)}</measure>")[:-40],
        LAUGHS + b"]><score-partwise><part-list>&a9;</part-list></score-partwise>",
    ],
)
def test_broken_scores_are_rejected(data: bytes, limits: ReadLimits) -> None:
    with pytest.raises(Reject, match="broken|no_notes"):
        read_musicxml(data, limits)


def corpus_piece(path: str, limits: ReadLimits) -> tuple[Path, Piece]:
    """A score of music21's corpus and our reading of it."""
    package = package_folder("music21")
    assert package is not None
    file = package / "corpus" / path
    return file, read_musicxml(file.read_bytes(), replace(limits, max_bytes=20_000_000))


def test_a_chorale_has_the_notes_that_music21_reads(limits: ReadLimits) -> None:
    from music21 import converter

    file, piece = corpus_piece("bach/bwv66.6.mxl", limits)
    reference = converter.parse(file)
    for track, part in zip(piece.tracks, reference.parts, strict=True):
        notes = part.flatten().stripTies().notes
        expected = sorted((float(one.offset), float(one.duration.quarterLength), one.pitch.midi) for one in notes)
        quarter = 36.0 / piece.duration  # the chorale is 36 quarters long
        assert track.notes.pitch.tolist() == [row[2] for row in expected]
        np.testing.assert_allclose(track.notes.onset * quarter, [row[0] for row in expected], atol=1e-3)
        np.testing.assert_allclose(track.notes.duration * quarter, [row[1] for row in expected], atol=1e-3)


@pytest.mark.parametrize(
    ("path", "n_notes", "pitch_sum"),
    [
        # What music21 9.9 counts after stripTies and toSoundingPitch.
        ("bach/bwv1.6.mxl", 491, 30636),
        ("mozart/k155/movement1.mxl", 2456, 162329),
        ("monteverdi/madrigal.3.1.mxl", 1142, 72849),
        ("joplin/maple_leaf_rag.mxl", 1489, 94397),
    ],
)
def test_scores_have_the_notes_that_music21_counted(
    path: str, n_notes: int, pitch_sum: int, limits: ReadLimits
) -> None:
    _, piece = corpus_piece(path, limits)
    assert piece.n_notes == n_notes
    assert sum(int(track.notes.pitch.sum(dtype=np.int64)) for track in piece.tracks) == pitch_sum
