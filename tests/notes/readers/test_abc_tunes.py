"""ABC tunes: every reading rule on small files, and real ones against music21's count."""

from pathlib import Path

import pytest

from timbreflow.notes.pieces import Piece, ReadLimits, Reject
from timbreflow.notes.readers.abc_tunes import read_abc
from timbreflow.notes.sources.files import containers
from timbreflow.notes.sources.music21 import music21_tunes


def tune(*lines: str, key: str = "C", unit: str = "1/4", metre: str = "4/4") -> bytes:
    """A tune in which a quarter is 1 s and, unless told, the unit."""
    return "\n".join(
        ["% before", "X: 1", "T:G a b", f"M:{metre}", f"L: {unit}", "Q:1/4=60", f"K: {key}", *lines]
    ).encode()


def rows(piece: Piece) -> list[tuple[float, float, int]]:
    """(onset, duration, pitch) of each note."""
    notes = piece.tracks[0].notes
    return [
        (round(onset, 4), round(duration, 4), pitch)
        for onset, duration, pitch in zip(
            notes.onset.tolist(), notes.duration.tolist(), notes.pitch.tolist(), strict=True
        )
    ]


def test_octaves_lengths_and_rests(limits: ReadLimits) -> None:
    piece = read_abc(tune("C,C2 c/c'// z d3/2 x/2 e/4|Z|g"), limits)
    assert rows(piece) == [
        (0, 1, 48), (1, 2, 60), (3, 0.5, 72), (3.5, 0.25, 84), (4.75, 1.5, 74), (6.75, 0.25, 76), (11, 1, 79),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "pitches"),
    [
        ("C", [65, 60, 71]),
        ("G", [66, 60, 71]),
        ("Bb", [65, 60, 70]),
        ("D % two sharps", [66, 61, 71]),
        ("Gm", [65, 60, 70]),
        ("ADorian", [66, 60, 71]),
        ("A Minor", [65, 60, 71]),
        ("EM", [66, 61, 71]),
        ("Amix", [66, 61, 71]),
        ("Glyd", [66, 61, 71]),
        ("Cb", [64, 59, 70]),
    ],
)
def test_keys(key: str, pitches: list[int], limits: ReadLimits) -> None:
    assert [row[2] for row in rows(read_abc(tune("FCB", key=key), limits))] == pitches


def test_accidentals_last_to_the_end_of_the_bar_in_their_octave(limits: ReadLimits) -> None:
    piece = read_abc(tune("^FFf=F|F __B^^C _D :|1 =F|2 F[K:C]F", key="G"), limits)
    assert [row[2] for row in rows(piece)] == [66, 66, 78, 65, 66, 69, 62, 61, 65, 66, 65]


def test_broken_rhythm_tuplets_chords_and_ties(limits: ReadLimits) -> None:
    assert rows(read_abc(tune("c>d e<f g>>a"), limits)) == [
        (0, 1.5, 72), (1.5, 0.5, 74), (2, 0.5, 76), (2.5, 1.5, 77), (4, 1.75, 79), (5.75, 0.25, 81),
    ]  # fmt: skip
    assert [row[:2] for row in rows(read_abc(tune("(3cde f ((3:2:2cd) e"), limits))] == [
        (0, 0.6667), (0.6667, 0.6667), (1.3333, 0.6667), (2, 1), (3, 0.6667), (3.6667, 0.6667), (4.3333, 1),
    ]  # fmt: skip
    assert rows(read_abc(tune("[CE]2-|[CE]G-c"), limits)) == [(0, 3, 60), (0, 3, 64), (3, 1, 67), (4, 1, 72)]
    assert len(rows(read_abc(tune('c||["Coda" d e|]'), limits))) == 3


def test_text_decorations_and_grace_notes_are_no_notes(limits: ReadLimits) -> None:
    plain = rows(read_abc(tune("cdef|gabc'"), limits))
    rich = tune('"_D.C. 50% a"uvc.d!f!{gab}~ef | \\', "N: a note", "% a b c", 'T"1"g``a (kb) c\' % a', "w: la la")
    assert rows(read_abc(rich, limits)) == plain


def test_a_file_of_more_tunes_gives_the_first(limits: ReadLimits) -> None:
    assert len(rows(read_abc(tune("cd", "", "X:2", "K:C", "efg"), limits))) == 2


def test_the_unit_follows_from_the_metre_where_it_is_not_named(limits: ReadLimits) -> None:
    assert rows(read_abc(b"X:1\nM:2/4\nQ:1/4=60\nK:C\nc", limits)) == [(0, 0.25, 72)]
    assert rows(read_abc(b"X:1\nM:C\nQ:1/4=60\nK:C\nc", limits)) == [(0, 0.5, 72)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just text",
        tune("z4"),
        tune("V:1", "cd"),
        tune("cd & ef"),
        tune("c/0"),
        tune("cd", metre="4/0", unit="1/0"),
        bytes(range(256)) * 10,
    ],
)
def test_broken_files_are_rejected(data: bytes, limits: ReadLimits) -> None:
    with pytest.raises(Reject, match="broken|no_notes"):
        read_abc(data, limits)


def test_the_tunes_of_music21_are_read_as_music21_reads_them(limits: ReadLimits) -> None:
    tunes = dict(music21_tunes())
    assert len(tunes) > 1000
    # Notes and quarters that music21 9.9 counted; a quarter lasts .6 s where no tempo is named.
    counts = {
        "42dHighlandRegimentStrathspey": (191, 96.125),
        "FloggingReel": (192, 97),
        "JamesLeesFavoriteJig": (107, 32.5),
    }
    for name, (n_notes, quarters) in counts.items():
        piece = read_abc(tunes[f"ryansMammoth/{name}.abc"].read_bytes(), limits)
        assert piece.n_notes == n_notes
        assert piece.duration == pytest.approx(quarters * 0.6)
    assert not any(label.endswith(".abc") for label in containers_of("music21"))
    assert set(containers_of("music21-folk")) == set(tunes)


def containers_of(source: str) -> list[str]:
    """Labels of a source that comes with music21."""
    return [one.label for one in containers(source, root=Path("."), corpora=Path("."))]
