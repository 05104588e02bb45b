"""ABC (.abc) with one tune in one voice to a `Piece` of one track.

Read are: the fields M, L, K and Q, also inside the tune; accidentals to the end of the bar, chords, ties, tuplets,
broken rhythm. Not read: repeats, ornaments, grace notes, decorations, words; of a file with more tunes only the first.
Standard: https://abcnotation.com/wiki/abc:standard:v2.1.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction

from timbreflow.notes.pieces import Piece, ReadLimits, Reject, Track
from timbreflow.notes.readers.score import DEFAULT_VELOCITY, STEPS, TempoMap, WrittenNote, accented, played

_SHARPS_OF_TONIC = {"C": 0, "D": 2, "E": 4, "F": -1, "G": 1, "A": 3, "B": 5}
_SHARPS_OF_MODE = {"": 0, "maj": 0, "ion": 0, "mix": -1, "dor": -2, "m": -3, "min": -3, "aeo": -3, "phr": -4, "loc": -5,
                   "lyd": 1}  # fmt: skip
_ACCIDENTALS = {"^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}
_KEY = re.compile(r"\s*([A-G])([#b]?)\s*([A-Za-z]*)")
_LENGTH = r"(?P<{0}>\d{{0,4}})(?P<{0}_slash>/{{0,4}})(?P<{0}_by>\d{{0,4}})"
_TOKEN = re.compile(
    r"(?P<skip>\"[^\"]*\"|![^!]*!|\{[^}]*\})"
    r"|\[(?P<name>[A-Za-z]):(?P<value>[^\]]*)\]"
    r"|\((?P<tuplet>[2-9])(?::(?P<time>\d?))?(?::(?P<members>\d{0,2}))?"
    r"|(?P<bar>\[(?:\||(?=\"[^\"]*\"\s))|:*\|[|\]:]*\d*|::\d*|\[\d)"
    r"|(?P<accidental>\^\^|\^|__|_|=)?(?P<step>[A-Ga-g])(?P<octave>[,']*)" + _LENGTH.format("note")
    + r"|(?P<rest>[zxZX])" + _LENGTH.format("pause")
    + r"|(?P<broken>>{1,3}|<{1,3})|(?P<tie>-)|(?P<open>\[)|(?P<close>\])" + _LENGTH.format("chord")
    + r"|(?P<overlay>&)"
)  # fmt: skip


@dataclass
class _Event:
    """Notes that begin together, or a rest: length in quarters."""

    length: Fraction
    pitches: list[int] = field(default_factory=list)
    tied: bool = False
    begins_bar: bool = False


@dataclass
class _State:
    """What holds on while a tune is read."""

    unit: Fraction | None = None  # L, in quarters
    metre: Fraction = Fraction(4)  # M, in quarters
    compound: bool = False
    sharps: int = 0
    tempo: float | None = None
    bar_accidentals: dict[tuple[str, str], int] = field(default_factory=dict)
    tuplet: tuple[Fraction, int] = (Fraction(1), 0)  # factor, notes that are left
    broken: Fraction = Fraction(1)  # factor of the next note
    bar_begins: bool = True

    def set_field(self, name: str, value: str) -> None:
        """Take a field; others than M, L, K and Q say nothing about the notes."""
        value = value.partition("%")[0].strip()
        if name == "M":
            ratio = {"C": "4/4", "C|": "2/2"}.get(value, value)
            if match := re.match(r"(\d{1,2})/(\d{1,2})", ratio):
                self.metre = 4 * Fraction(int(match[1]), int(match[2]))
                self.compound = int(match[1]) in {6, 9, 12}
        elif name == "L":
            if match := re.match(r"(\d{1,2})/(\d{1,3})", value):
                self.unit = 4 * Fraction(int(match[1]), int(match[2]))
        elif name == "K":
            if match := _KEY.match(value):
                mode = match[3].lower()
                shift = _SHARPS_OF_MODE.get("" if match[3] == "M" else mode[:3], 0)
                self.sharps = _SHARPS_OF_TONIC[match[1]] + {"": 0, "#": 7, "b": -7}[match[2]] + shift
        elif name == "Q" and (match := re.match(r"(?:\"[^\"]*\"\s*)?(\d{1,2})/(\d{1,2})\s*=\s*(\d{1,3})", value)):
            self.tempo = float(4 * Fraction(int(match[1]), int(match[2])) * int(match[3]))

    def length(self, match: re.Match[str], name: str) -> Fraction:
        """Length in quarters that a note, rest or chord has beside its name: 2, 3/2, /, //."""
        by = match[f"{name}_by"]
        slashes = len(match[f"{name}_slash"])
        divisor = int(by) if by else 2**slashes
        return Fraction(int(match[name] or 1), divisor)

    def default_unit(self) -> Fraction:
        """L where it is given, else what the standard says for the metre."""
        return self.unit if self.unit is not None else Fraction(1, 4) if self.metre < 3 else Fraction(1, 2)

    def pitch(self, match: re.Match[str]) -> int:
        """MIDI pitch of a note, with the accidentals of its bar and key."""
        step, marks = match["step"], match["octave"]
        if match["accidental"]:
            self.bar_accidentals[step, marks] = _ACCIDENTALS[match["accidental"]]
        octave = 60 + 12 * step.islower() + 12 * (marks.count("'") - marks.count(","))
        alteration = self.bar_accidentals.get((step, marks))
        return octave + STEPS[step.upper()] + (self._of_key(step.upper()) if alteration is None else alteration)

    def _of_key(self, step: str) -> int:
        fifths = "FCGDAEB".index(step)
        return (self.sharps - fifths + 6) // 7


def read_abc(data: bytes, limits: ReadLimits) -> Piece:
    """Parse an ABC tune.

    Args:
        data: the whole file.
        limits: what is still read.

    Raises:
        Reject: the file gives no piece, with the reason.
    """
    limits.check_size(len(data))
    lines = data.decode("utf-8", errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("X:")]
    if not starts:
        raise Reject("broken", "it has no line X:, which begins a tune.")
    tune = lines[starts[0] : starts[1] if len(starts) > 1 else None]
    try:
        state = _State()
        notes = _timed(_events(tune, state))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise Reject("broken", f"it holds a length or field that cannot be read ({error}).") from error
    track = Track(played(notes, TempoMap([] if state.tempo is None else [(0.0, state.tempo)])), -1, False, "")
    return limits.check_piece([track] if len(track.notes) else [])


def _events(lines: list[str], state: _State) -> list[_Event]:
    events: list[_Event] = []
    in_tune = False
    for line in lines:
        if match := re.match(r"([A-Za-z]):(?!\|)(.*)", line):
            if match[1] == "V":
                raise Reject("broken", "it has more than one voice (V:), which is not read.")
            state.set_field(match[1], match[2])
            in_tune = in_tune or match[1] == "K"  # the last field before the notes
        elif in_tune and not line.startswith("%"):
            _read_line(line.replace("`", ""), state, events)
    return events


def _read_line(line: str, state: _State, events: list[_Event]) -> None:
    chord: tuple[list[int], Fraction] | None = None
    # Text in quotes may hold a %, so a comment is looked for outside of it.
    line = re.sub(r"(\"[^\"]*\")|%.*", lambda match: match[1] or "", line)
    for match in _TOKEN.finditer(line):
        if match["open"]:
            chord = ([], Fraction(0))
        elif match["step"]:
            pitch, length = state.pitch(match), state.length(match, "note")
            if chord is None:
                _append(events, state, [pitch], length)
            else:
                chord = ([*chord[0], pitch], chord[1] or length)
        elif match["close"]:
            if chord is not None:
                _append(events, state, chord[0], chord[1] * state.length(match, "chord"))
            chord = None
        elif match["rest"]:
            length = state.length(match, "pause")
            if match["rest"] in "ZX":
                length *= state.metre / state.default_unit()
            _append(events, state, [], length)
        else:
            _read_sign(match, state, events)


def _read_sign(match: re.Match[str], state: _State, events: list[_Event]) -> None:
    """Take what is neither note nor rest and says something about those before or after it."""
    if match["overlay"]:
        raise Reject("broken", "it has two voices in a bar (&), which are not read.")
    if match["name"]:
        state.set_field(match["name"], match["value"])
    elif match["tuplet"]:
        state.tuplet = _tuplet(match, state.compound)
    elif match["bar"]:
        state.bar_accidentals.clear()
        state.bar_begins = True
    elif match["broken"] and events:
        short = Fraction(1, 2 ** len(match["broken"]))
        first, state.broken = (2 - short, short) if match["broken"][0] == ">" else (short, 2 - short)
        events[-1].length *= first
    elif match["tie"] and events:
        events[-1].tied = True


def _tuplet(match: re.Match[str], compound: bool) -> tuple[Fraction, int]:
    """Factor of the lengths, and how many notes have it: (3 is three in the time of two."""
    number = int(match["tuplet"])
    time = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(number, 3 if compound else 2)
    return Fraction(int(match["time"] or time), number), int(match["members"] or number)


def _append(events: list[_Event], state: _State, pitches: list[int], length: Fraction) -> None:
    factor, left = state.tuplet
    length *= state.default_unit() * state.broken * (factor if left else 1)
    state.tuplet, state.broken = (factor, max(left - 1, 0)), Fraction(1)
    events.append(_Event(length, pitches, begins_bar=state.bar_begins))
    state.bar_begins = False


def _timed(events: list[_Event]) -> list[WrittenNote]:
    notes: list[WrittenNote] = []
    now, bar_start = Fraction(0), Fraction(0)
    open_ties: dict[int, int] = {}  # pitch -> index of the note that goes on
    for event in events:
        if event.begins_bar:
            bar_start = now
        still_open: dict[int, int] = {}
        for pitch in event.pitches:
            index = open_ties.get(pitch, len(notes))
            if index < len(notes):
                notes[index] = notes[index].until(float(now + event.length))
            else:
                velocity = accented(DEFAULT_VELOCITY, float(now - bar_start))
                notes.append(WrittenNote(float(now), float(event.length), pitch, velocity))
            if event.tied:
                still_open[pitch] = index
        open_ties = still_open
        now += event.length
    return notes
