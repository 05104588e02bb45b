"""Humdrum **kern (.krn) to a `Piece`: each **kern spine of the first line becomes a track.

Read are: durations with dots and rational ones, chords, ties, spine splits and joins, exchange, tempo (*MM). Not read:
repeats, ornaments, grace notes, dynamics in other spines. **kern is written at sounding pitch.
Specification: https://www.humdrum.org/rep/kern/.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction

from timbreflow.notes.pieces import Piece, ReadLimits, Reject, Track
from timbreflow.notes.readers.score import DEFAULT_VELOCITY, STEPS, TempoMap, WrittenNote, accented, played

_DURATION = re.compile(r"(\d+)(?:%(\d+))?(\.*)")
_PITCH = re.compile(r"([a-g])\1*|([A-G])\2*")


@dataclass
class _Part:
    """A spine of the first line with all that it splits into."""

    name: str = ""
    notes: list[WrittenNote] = field(default_factory=list)
    open_ties: dict[int, int] = field(default_factory=dict)  # pitch -> index of the note that goes on


@dataclass
class _Spine:
    """One column: the part it belongs to (None where it is not **kern) and where its last note ends, in quarters."""

    part: _Part | None
    end: Fraction = Fraction(0)


def read_kern(data: bytes, limits: ReadLimits) -> Piece:
    """Parse a Humdrum file with **kern spines.

    Args:
        data: the whole file.
        limits: what is still read.

    Raises:
        Reject: the file gives no piece, with the reason.
    """
    limits.check_size(len(data))
    lines = data.decode("utf-8", errors="replace").splitlines()
    start = next((k for k, line in enumerate(lines) if line.startswith("**")), None)
    if start is None or "**kern" not in lines[start].split("\t"):
        raise Reject("broken", "it has no **kern spine.")
    spines = [_Spine(_Part() if name == "**kern" else None) for name in lines[start].split("\t")]
    parts = [spine.part for spine in spines if spine.part is not None]
    tempo: list[tuple[float, float]] = []
    now, measure_start = Fraction(0), Fraction(0)
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if not line.strip() or line.startswith("!"):
            continue
        tokens = line.split("\t")
        if len(tokens) != len(spines):
            raise Reject("broken", f"line {number} has {len(tokens)} columns instead of {len(spines)}.")
        if line.startswith("*"):
            _read_names(tokens, spines, float(now), tempo)
            spines = _next_spines(tokens, spines)
        elif line.startswith("="):
            measure_start = now
        else:
            try:
                now = _read_data(tokens, spines, now, measure_start)
            except (ValueError, ZeroDivisionError) as error:
                raise Reject("broken", f"line {number} holds a note that cannot be read ({error}).") from error
    tempo_map = TempoMap(tempo)
    tracks = [Track(played(part.notes, tempo_map), -1, False, part.name) for part in parts]
    return limits.check_piece([track for track in tracks if len(track.notes)])


def _read_names(tokens: list[str], spines: list[_Spine], now: float, tempo: list[tuple[float, float]]) -> None:
    for token, spine in zip(tokens, spines, strict=True):
        if re.fullmatch(r"\*MM\d+(\.\d+)?", token):
            tempo.append((now, float(token[3:])))
        elif spine.part is not None and not spine.part.name:
            if token.startswith('*I"'):
                spine.part.name = token[3:].strip()
            elif re.fullmatch(r"\*I[a-z]\w*", token):
                spine.part.name = token[2:]


def _next_spines(tokens: list[str], spines: list[_Spine]) -> list[_Spine]:
    """Columns after a line of interpretations: `*^` splits, neighbouring `*v` join, `*x *x` exchange, `*-` ends."""
    after: list[_Spine] = []
    exchanged: int | None = None
    joining = False
    for token, spine in zip(tokens, spines, strict=True):
        if token == "*v" and joining and after[-1].part is spine.part:
            after[-1].end = max(after[-1].end, spine.end)
            continue
        joining = token == "*v"
        if token == "*-":
            continue
        after.append(spine)
        if token == "*^":
            after.append(_Spine(spine.part, spine.end))
        elif token == "*+":
            after.append(_Spine(None))
        elif token == "*x":
            if exchanged is None:
                exchanged = len(after) - 1
            else:
                after[exchanged], after[-1] = after[-1], after[exchanged]
                exchanged = None
        elif token.startswith("**"):
            spine.part = spine.part if token == "**kern" else None
    return after


def _read_data(tokens: list[str], spines: list[_Spine], now: Fraction, measure_start: Fraction) -> Fraction:
    """Read one line of notes that begin at `now`; returns when the next line begins."""
    beat = float(now - measure_start)
    for token, spine in zip(tokens, spines, strict=True):
        if spine.part is None or token == ".":
            continue
        spine.end = max(spine.end, now)
        duration: Fraction | None = None
        for word in token.split(" "):
            if "q" in word or "Q" in word:  # a grace note takes no time
                continue
            # In a chord the duration may stand with its first note only.
            duration = _duration(word, duration)
            if duration is None:
                continue
            spine.end = max(spine.end, now + duration)
            if "r" not in word:
                _add_note(spine.part, word, now, duration, beat)
    ends = [spine.end for spine in spines if spine.part is not None and spine.end > now]
    return min(ends, default=now)


def _duration(word: str, default: Fraction | None) -> Fraction | None:
    """Length in quarters: 4 is a quarter, 4. a dotted one, 0 a breve, 00 a long, 3%2 two thirds of a whole note."""
    match = _DURATION.search(word)
    if match is None:
        return default
    digits, numerator, dots = match.groups()
    whole = Fraction(2 ** len(digits)) if set(digits) == {"0"} else Fraction(int(numerator or 1), int(digits))
    return 4 * whole * (2 - Fraction(1, 2 ** len(dots)))


def _add_note(part: _Part, word: str, now: Fraction, duration: Fraction, beat: float) -> None:
    match = _PITCH.search(word)
    if match is None:
        return
    letters = match.group(0)
    octave = 4 + len(letters) - 1 if letters[0].islower() else 4 - len(letters)
    pitch = 12 * (octave + 1) + STEPS[letters[0].upper()] + word.count("#") - word.count("-")
    if ("_" in word or "]" in word) and pitch in part.open_ties:
        index = part.open_ties.pop(pitch)
        part.notes[index] = part.notes[index].until(float(now + duration))
    else:
        index = len(part.notes)
        part.notes.append(WrittenNote(float(now), float(duration), pitch, accented(DEFAULT_VELOCITY, beat)))
    if "[" in word or "_" in word:
        part.open_ties[pitch] = index
