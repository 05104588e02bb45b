"""Accompaniments: songs for MMA, and a stand-in for MMA itself (the package is a download, and not for tests)."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.notes.sources import corpora
from timbreflow.notes.sources.accompaniments import MAJOR, MINOR, Groove, generate, grooves
from timbreflow.notes.sources.accompaniments import song as mma_song
from timbreflow.notes.sources.corpora import fetch

# It "plays" the file that is named after the groove, and tells that it was called.
PROGRAM = """
import os, re, shutil, sys
assert sys.argv[1:] == ["-f", "song.mid", "song.mma"], sys.argv
home = os.environ["MMA_HOME"]
groove = re.search("^Groove (.*)$", open("song.mma").read(), re.M)[1]
with open(os.path.join(home, "calls"), "a") as calls:
    calls.write(groove + "\\n")
if groove == "Broken":
    sys.exit(1)
shutil.copy(os.path.join(home, groove + ".mid"), "song.mid")
"""


@pytest.fixture
def package(tmp_path: Path, song: Callable[..., bytes]) -> Path:
    """An unpacked package with five grooves in two libraries, one of which is broken and one is all drums."""
    folder = tmp_path / "mma"
    home = folder / "usr/share/mma"
    (home / "lib/stdlib").mkdir(parents=True)
    (folder / "usr/bin").mkdir()
    (folder / "usr/bin/mma").write_text(PROGRAM)
    (home / "lib/stdlib/swing.mma").write_text(
        "Time 4\nDefGroove Swing  a text\n  DefGroove SwingIntro1\nDefGroove End\n"
    )
    (home / "lib/stdlib/rock.mma").write_text("defgroove Rock\nDefGroove Kit\nDefGroove Broken\nDefGroove Rock2\n")
    for seed, name in enumerate(("Swing", "Rock", "Rock2")):
        (home / f"{name}.mid").write_bytes(song(seed))
    (home / "Kit.mid").write_bytes(song(programs=(), drums=True))
    return folder


def test_introductions_and_endings_carry_no_piece(package: Path) -> None:
    assert [(one.library, one.name) for one in grooves(package)] == [
        ("stdlib/rock", "Broken"),
        ("stdlib/rock", "Kit"),
        ("stdlib/rock", "Rock"),
        ("stdlib/rock", "Rock2"),
        ("stdlib/swing", "Swing"),
    ]


def test_songs_have_8_to_16_bars_in_all_keys_and_end_at_home() -> None:
    songs = [mma_song(Groove("stdlib/swing", "Swing"), number=number, seed=7) for number in range(48)]
    assert songs[3] == mma_song(Groove("stdlib/swing", "Swing"), number=3, seed=7)
    assert len(set(songs)) == 48
    last = set()
    for text in songs:
        assert "Use stdlib/swing\nGroove Swing\n" in text
        bars = re.findall(r"^(\d+) ([A-G][b#]?)(\S*)$", text, re.MULTILINE)
        assert [int(bar[0]) for bar in bars] == list(range(1, len(bars) + 1))
        assert len(bars) in {8, 12, 16}
        assert bars[-1][2] in {"", "m"}
        last.add(bars[-1][1])
    assert len(last) == 12
    assert all(0 <= step < 12 for parts in (MAJOR, MINOR) for part in parts.values() for step, _ in part)


def test_what_gives_no_music_is_skipped_and_the_next_groove_plays(package: Path, tmp_path: Path) -> None:
    made = generate(package, tmp_path / "out", count=3, seed=1)
    assert sorted(path.stem.rpartition("-")[2] for path in made.paths) == ["Rock", "Rock2", "Swing"]
    assert generate(package, tmp_path / "all", count=9, seed=1).skipped == 2
    again = generate(package, tmp_path / "other", count=3, seed=1)
    assert [path.name for path in again.paths] == [path.name for path in made.paths]
    assert [path.read_bytes() for path in again.paths] == [path.read_bytes() for path in made.paths]
    assert not list(package.glob(".generating*"))


def test_a_finished_folder_is_left_as_it_is(package: Path, tmp_path: Path) -> None:
    made = generate(package, tmp_path / "out", count=2, seed=1)
    calls = (package / "usr/share/mma/calls").read_text()
    assert generate(package, tmp_path / "out", count=2, seed=1) == made
    assert (package / "usr/share/mma/calls").read_text() == calls
    with pytest.raises(TimbreflowError, match="other settings"):
        generate(package, tmp_path / "out", count=3, seed=1)


def test_a_run_that_was_broken_off_is_gone_on_with(package: Path, tmp_path: Path) -> None:
    whole = generate(package, tmp_path / "whole", count=3, seed=1)
    (package / "usr/share/mma/calls").unlink()
    work = package / ".generating-3-1"
    work.mkdir()
    (work / whole.paths[0].name).write_bytes(whole.paths[0].read_bytes())
    (work / ".0001-half.mid").write_bytes(b"MThd")
    made = generate(package, tmp_path / "out", count=3, seed=1)
    assert [path.name for path in made.paths] == [path.name for path in whole.paths]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in whole.paths} | {
        "generated.json"
    }
    assert whole.paths[0].stem.rpartition("-")[2] not in (package / "usr/share/mma/calls").read_text().split()


def test_bad_folders_and_counts_are_one_sentence(package: Path, tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="does not hold the program mma"):
        generate(tmp_path / "nothing", tmp_path / "out", count=3, seed=1)
    with pytest.raises(TimbreflowError, match="at least one"):
        generate(package, tmp_path / "out", count=0, seed=1)
    (package / "usr/bin/mma").write_text("import sys\nsys.exit(1)\n")
    with pytest.raises(TimbreflowError, match="played none"):
        generate(package, tmp_path / "out", count=3, seed=1)
    for file in (package / "usr/share/mma/lib").rglob("*.mma"):
        file.unlink()
    with pytest.raises(TimbreflowError, match="defines no groove"):
        generate(package, tmp_path / "out", count=3, seed=1)


def test_fetching_mma_generates_and_tells_how_many(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_ACCOMPANIMENTS", 2)
    done = fetch("mma", package.parent)
    assert "played 2 accompaniments" in done.message
    assert done.path is not None and len(list((done.path / "generated").glob("*.mid"))) == 2
    assert json.loads((done.path / "generated/generated.json").read_text())["asked"]["count"] == 2
