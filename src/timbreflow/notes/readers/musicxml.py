"""MusicXML (.musicxml, .xml, compressed .mxl) to a `Piece`, read straight from the note elements.

music21's own way (parse, then export MIDI) takes up to 49 s a movement; this takes a few hundredths. Read are:
divisions, chords, voices (backup and forward), ties, transposing instruments, tempo (`sound`, else a metronome mark),
dynamics, programs and percussion parts. Not read: repeats, ornaments, grace and cue notes, hairpins.
Specification: https://www.w3.org/2021/06/musicxml40/.
"""

import io
import zipfile
from dataclasses import dataclass, field
from xml.etree import ElementTree

from timbreflow.notes.pieces import Piece, ReadLimits, Reject, Track
from timbreflow.notes.readers.score import DEFAULT_VELOCITY, MARKS, STEPS, TempoMap, WrittenNote, accented, played

_BEAT_UNITS = {"whole": 4.0, "half": 2.0, "quarter": 1.0, "eighth": 0.5, "16th": 0.25}


def read_musicxml(data: bytes, limits: ReadLimits) -> Piece:
    """Parse a partwise MusicXML score; each part that has pitched notes becomes a track.

    Args:
        data: the whole file, plain or compressed (.mxl).
        limits: what is still read; `max_bytes` counts for the uncompressed score too.

    Raises:
        Reject: the file gives no piece, with the reason.
    """
    limits.check_size(len(data))
    if data[:2] == b"PK":
        data = _uncompressed(data, limits)
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise Reject("broken", f"it is not well-formed XML ({error}).") from error
    if root.tag != "score-partwise":
        raise Reject("broken", f"its root element is <{root.tag[:40]}>, not <score-partwise>.")
    try:
        return limits.check_piece(_tracks(root))
    except (ValueError, KeyError, OverflowError, ZeroDivisionError) as error:
        raise Reject("broken", f"it holds a number or name that MusicXML does not allow ({error}).") from error


def _uncompressed(data: bytes, limits: ReadLimits) -> bytes:
    """The score inside an .mxl file: what META-INF/container.xml names, else its first .xml member."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if not name.startswith("META-INF/")]
            names = [name for name in names if name.lower().endswith((".xml", ".musicxml"))]
            if "META-INF/container.xml" in archive.namelist():
                with archive.open("META-INF/container.xml") as file:
                    container = ElementTree.fromstring(file.read(100_000))
                rootfile = container.find(".//{*}rootfile")
                if rootfile is not None and rootfile.get("full-path") in archive.namelist():
                    names.insert(0, str(rootfile.get("full-path")))
            if not names:
                raise Reject("broken", "it is a zip file without a score.")
            # One byte over the limit is enough to know, whatever a zip bomb would unpack to.
            with archive.open(names[0]) as file:
                score = file.read(limits.max_bytes + 1)
    except Reject:
        raise
    except Exception as error:  # zlib.error and lzma.LZMAError have no common base with the others
        raise Reject("broken", f"it is not a readable compressed score ({error}).") from error
    limits.check_size(len(score))
    return score


@dataclass
class _Measure:
    """What one part says in one measure; positions in quarters from the start of the measure."""

    notes: list[tuple[float, float, int, int, bool, bool]] = field(default_factory=list)
    """(position, duration, pitch, velocity, tied to the note before, tied to the next one)."""
    tempo: list[tuple[float, float]] = field(default_factory=list)
    length: float = 0.0


@dataclass
class _State:
    """What holds on from measure to measure of a part."""

    divisions: float = 1.0
    transposition: int = 0
    velocity: float = DEFAULT_VELOCITY
    measure_length: float = 4.0


def _tracks(root: ElementTree.Element) -> list[Track]:
    parts = []
    for element in root.findall("part"):
        state = _State()
        parts.append([_read_measure(measure, state) for measure in element.findall("measure")])
    lengths = [max(part[k].length for part in parts if k < len(part)) for k in range(max(map(len, parts), default=0))]
    starts = [0.0]
    for length in lengths:
        starts.append(starts[-1] + length)
    marks = [
        (start + position, value)
        for part in parts
        for start, measure in zip(starts, part, strict=False)
        for position, value in measure.tempo
    ]
    tempo = TempoMap(marks)
    tracks = []
    for element, part in zip(root.findall("part"), parts, strict=True):
        notes = played(_joined(part, starts), tempo)
        if len(notes):
            program, is_drum, name = _instrument(root, element.get("id"))
            tracks.append(Track(notes, program, is_drum, name))
    return tracks


def _instrument(root: ElementTree.Element, part_id: str | None) -> tuple[int, bool, str]:
    """Program (-1 where none is written), whether it is a drum kit, and name of a part."""
    for part in root.iterfind("part-list/score-part"):
        if part.get("id") == part_id:
            program = int(part.findtext("midi-instrument/midi-program", "0")) - 1
            channel = part.findtext("midi-instrument/midi-channel", "").strip()
            return program if 0 <= program <= 127 else -1, channel == "10", part.findtext("part-name", "").strip()
    return -1, False, ""


def _read_measure(element: ElementTree.Element, state: _State) -> _Measure:
    measure = _Measure()
    position, chord_position = 0.0, 0.0
    for child in element:
        if child.tag == "note":
            if child.find("grace") is not None:
                continue
            duration = _quarters(child, state)
            is_chord = child.find("chord") is not None
            if not is_chord:
                chord_position = position
                position += duration
            _add_note(measure, child, chord_position, duration, state)
        elif child.tag == "backup":
            position = max(position - _quarters(child, state), 0.0)
        elif child.tag == "forward":
            position += _quarters(child, state)
        elif child.tag == "attributes":
            _read_attributes(child, state)
        elif child.tag in ("direction", "sound"):
            _read_direction(child, position, measure, state)
        measure.length = max(measure.length, position)
    measure.length = measure.length or state.measure_length
    return measure


def _quarters(element: ElementTree.Element, state: _State) -> float:
    return max(float(element.findtext("duration", "0")), 0.0) / state.divisions


def _add_note(measure: _Measure, note: ElementTree.Element, position: float, duration: float, state: _State) -> None:
    pitch = note.find("pitch")
    if pitch is None or note.find("cue") is not None:
        return
    ties = {tie.get("type") for tie in note.findall("tie")}
    number = (
        12 * (int(pitch.findtext("octave", "4")) + 1)
        + STEPS[pitch.findtext("step", "").strip()]
        + round(float(pitch.findtext("alter", "0")))
        + state.transposition
    )
    velocity = accented(state.velocity, position)
    measure.notes.append((position, duration, number, velocity, "stop" in ties, "start" in ties))


def _read_attributes(element: ElementTree.Element, state: _State) -> None:
    divisions = float(element.findtext("divisions", "0"))
    if divisions > 0:
        state.divisions = divisions
    transpose = element.find("transpose")
    if transpose is not None:
        octaves = int(transpose.findtext("octave-change", "0"))
        state.transposition = round(float(transpose.findtext("chromatic", "0"))) + 12 * octaves
    beats, beat_type = element.findtext("time/beats", ""), element.findtext("time/beat-type", "")
    if beats.strip().isdigit() and beat_type.strip().isdigit() and int(beat_type) > 0:
        state.measure_length = 4.0 * int(beats) / int(beat_type)


def _read_direction(element: ElementTree.Element, position: float, measure: _Measure, state: _State) -> None:
    for mark in element.iterfind("direction-type/dynamics/*"):
        state.velocity = MARKS.get(mark.tag, state.velocity)
    sound = element if element.tag == "sound" else element.find("sound")
    metronome = element.find("direction-type/metronome")
    if sound is not None and sound.get("tempo"):
        measure.tempo.append((position, float(str(sound.get("tempo")))))
    elif metronome is not None:
        unit = _BEAT_UNITS.get(metronome.findtext("beat-unit", ""), 0.0)
        unit *= 1.5 if metronome.find("beat-unit-dot") is not None else 1.0
        digits = metronome.findtext("per-minute", "").strip()
        if unit and digits.replace(".", "", 1).isdigit():
            measure.tempo.append((position, float(digits) * unit))


def _joined(part: list[_Measure], starts: list[float]) -> list[WrittenNote]:
    """Notes of a part with tied ones made one: a tie goes on where the note before it at that pitch ends."""
    written: list[WrittenNote] = []
    open_ties: dict[tuple[int, int], int] = {}  # (pitch, end in 1/1000 quarters) -> index of the note to lengthen
    for start, measure in zip(starts, part, strict=False):
        for position, duration, pitch, velocity, stops, begins in sorted(measure.notes):
            onset = start + position
            index = open_ties.pop((pitch, round(1000 * onset)), None) if stops else None
            if index is None:
                index = len(written)
                written.append(WrittenNote(onset, duration, pitch, velocity))
            else:
                written[index] = written[index].until(onset + duration)
            if begins:
                open_ties[pitch, round(1000 * (onset + duration))] = index
    return written
