"""**kern: every reading rule on small files, and one real file against music21's count."""

from dataclasses import replace

import numpy as np
import pytest

from timbreflow.notes.pieces import Piece, ReadLimits, Reject
from timbreflow.notes.readers.kern import read_kern
from timbreflow.notes.sources.corpora import package_folder


def kern(*lines: str) -> bytes:
    """A kern file; blanks between columns stand for tabs, `+` for the blank inside a chord. *MM60: a quarter is 1 s."""
    return "\n".join(line.replace(" ", "\t").replace("+", " ") for line in lines).encode()


def rows(piece: Piece, track: int = 0) -> list[tuple[float, float, int]]:
    """(onset, duration, pitch) of each note."""
    notes = piece.tracks[track].notes
    return list(zip(notes.onset.tolist(), notes.duration.tolist(), notes.pitch.tolist(), strict=True))


def test_durations_pitches_and_alterations(limits: ReadLimits) -> None:
    piece = read_kern(
        kern("**kern", "*MM60", "4c", "8cc#", "8C--", "4.CC", "8r", "2%3b-", "0eee", "12gg", "12gg", "12gg"), limits
    )
    assert rows(piece)[:5] == [
        (0, 1, 60),
        (1, 0.5, 73),
        (1.5, 0.5, 46),
        (2, 1.5, 36),
        (4, 6, 70),
    ]
    assert rows(piece)[5] == (10, 8, 88)
    np.testing.assert_allclose([row[:2] for row in rows(piece)[6:]], [(18 + k / 3, 1 / 3) for k in range(3)], rtol=1e-6)


def test_columns_keep_time_with_each_other(limits: ReadLimits) -> None:
    piece = read_kern(
        kern("**kern **dynam **kern", "*Ivioln * *Icello", "*MM60 * *MM60", "2C p 4c", ". . 8d", ". . 8e", "4D . 4f"),
        limits,
    )
    assert rows(piece, 0) == [(0, 2, 48), (2, 1, 50)]
    assert rows(piece, 1) == [(0, 1, 60), (1, 0.5, 62), (1.5, 0.5, 64), (2, 1, 65)]
    assert [track.name for track in piece.tracks] == ["violn", "cello"]
    assert {track.program for track in piece.tracks} == {-1}


def test_chords_ties_and_grace_notes(limits: ReadLimits) -> None:
    piece = read_kern(kern("**kern", "*MM60", "=1", "[4c+4e", "=2", "qg", "4c_+4e", "=3", "4c]+8e", "4c", "*-"), limits)
    assert rows(piece) == [(0, 3, 60), (0, 1, 64), (1, 1, 64), (2, 0.5, 64), (3, 1, 60)]


def test_split_and_joined_spines_stay_one_part(limits: ReadLimits) -> None:
    piece = read_kern(
        kern(
            "**kern **kern", "*MM60 *MM60", "4C 4c", "* *^", "2D 4d 2f", ". 4e .", "* *v *v", "4E 4g", "*x *x", "4a 4F"
        ),
        limits,
    )
    assert rows(piece, 0) == [(0, 1, 48), (1, 2, 50), (3, 1, 52), (4, 1, 53)]
    assert rows(piece, 1) == [(0, 1, 60), (1, 1, 62), (1, 2, 65), (2, 1, 64), (3, 1, 67), (4, 1, 69)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just text",
        kern("**text", "la"),
        kern("**kern **kern", "4c"),
        kern("**kern", "4r", "*-"),
        kern("**kern", "4%0c"),
        bytes(range(256)) * 10,
    ],
)
def test_broken_files_are_rejected(data: bytes, limits: ReadLimits) -> None:
    with pytest.raises(Reject, match="broken|no_notes"):
        read_kern(data, limits)


def test_a_mazurka_has_the_notes_that_music21_counted(limits: ReadLimits) -> None:
    package = package_folder("music21")
    assert package is not None
    data = (package / "corpus/chopin/mazurka06-2.krn").read_bytes()
    piece = read_kern(data, replace(limits, max_bytes=10_000_000))
    assert sorted(len(track.notes) for track in piece.tracks) == [330, 457]
    assert sum(int(track.notes.pitch.sum(dtype=np.int64)) for track in piece.tracks) == 47761
