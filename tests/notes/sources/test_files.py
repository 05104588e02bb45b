"""Sources: folders, archives, WADs and corpora give the same files in the same order, whatever is wrong in them."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.notes.sources.archives import Item, Share, read_items
from timbreflow.notes.sources.files import Container, containers
from timbreflow.notes.sources.music21 import ALLOWED, music21_scores

Song = Callable[..., bytes]


def items(source: str, root: Path, share: Share | None = None) -> list[Item]:
    """All items of a source."""
    found = containers(source, root=root, corpora=root / "corpora")
    return [item for one in found for item in read_items(one, max_bytes=10_000, share=share or Share())]


def test_folders_are_searched_in_sorted_order(tmp_path: Path, song: Song) -> None:
    names = ("b/z.mid", "b/A.MIDI", "a.kar", "b/c/d.Mid", "f.rmi", "g.SMF", "h.mid.gz")
    others = ("b/._z.mid", "e.mid.bak", "notes.txt")
    for name in (*names, *others):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(song())
    (tmp_path / "in" / "gone.mid").symlink_to(tmp_path / "nowhere")
    every = items("in", tmp_path)
    found = [item for item in every if not item.reject]
    assert [item.path for item in found] == sorted(names)
    assert {item.path: item.reject.detail for item in every if item.reject} == {
        **dict.fromkeys(others, "files of its kind are not read."),
        "gone.mid": "it links to nothing.",
    }
    assert all(item.data == song() and item.size == len(song()) for item in found)
    assert [item.path for item in items("in/a.kar", tmp_path)] == ["a.kar"]


def test_linked_folders_are_followed_once_and_circles_end(tmp_path: Path, song: Song) -> None:
    for name in ("in/own/a.mid", "elsewhere/b.mid", "elsewhere/deep/c.mid"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(song())
    for link, target in {
        "in/link": "elsewhere",
        "in/a second link": "elsewhere",
        "in/0 link to a folder beside": "in/own",
        "in/own/up": "in",
        "elsewhere/circle": "elsewhere/deep",
        "elsewhere/deep/back": "elsewhere",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    every = items("in", tmp_path)
    assert [item.path for item in every if not item.reject] == [
        "a second link/b.mid",
        "a second link/deep/c.mid",
        "own/a.mid",
    ]
    assert {item.reject.detail for item in every if item.reject} == {"it links to a folder that is read already."}
    assert "own/up" in [item.path for item in every] and "link" in [item.path for item in every]


def tar_with_traps(path: Path, songs: dict[str, bytes], mode: str) -> None:
    """A tar of songs beside a link, a folder, a device and another file."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in songs.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, kind in (
            ("link.mid", tarfile.SYMTYPE),
            ("folder.mid", tarfile.DIRTYPE),
            ("dev.mid", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            archive.addfile(member)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_are_streamed_and_write_nothing(mode: str, tmp_path: Path, song: Song) -> None:
    songs = {
        "a.mid": song(1),
        "../../evil.mid": song(2),
        "/abs.mid": song(3),
        "readme.txt": b"x",
        "big.mid": b"y" * 20_000,
    }
    name = f"x.tar{mode[1:].replace(':', '.')}"
    tar_with_traps(tmp_path / name, {**songs, "readme.txt": b"x"}, mode)
    before = sorted(tmp_path.rglob("*"))
    every = items(name, tmp_path)
    found = [item for item in every if not item.reject]
    assert {item.path.removeprefix(f"{name}/") for item in every if item.reject} == {
        "readme.txt",
        "link.mid",
        "dev.mid",
    }
    assert [item.path for item in found] == [
        f"{name}/{member}" for member in ("a.mid", "../../evil.mid", "/abs.mid", "big.mid")
    ]
    assert found[0].data == song(1)
    assert (len(found[3].data), found[3].size) == (10_001, 20_000)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_shares_of_an_archive_are_disjoint_and_complete(kind: str, tmp_path: Path, song: Song) -> None:
    songs = {f"{number:02d}.mid": song(number) for number in range(11)}
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for name, data in songs.items():
                archive.writestr(name, data)
    else:
        tar_with_traps(tmp_path / "x.tar.gz", songs, "w:gz")

    def paths(share: Share) -> list[str]:
        return [item.path for item in items(f"x.{kind}", tmp_path, share) if not item.reject]

    whole = paths(Share())
    shares = [paths(Share(part, 3)) for part in range(3)]
    assert sorted(path for share in shares for path in share) == whole
    assert [len(share) for share in shares] == [4, 4, 3]


def test_a_fraction_keeps_the_same_files_in_folder_and_order(tmp_path: Path, song: Song) -> None:
    for number in range(200):
        (tmp_path / f"{number}.mid").write_bytes(b"x")
    kept = {item.path for item in items(".", tmp_path, Share(fraction=0.3))}
    assert 40 < len(kept) < 80
    for number in range(200, 220):
        (tmp_path / f"{number}.mid").write_bytes(b"x")
    assert kept <= {item.path for item in items(".", tmp_path, Share(fraction=0.3))}
    assert kept <= {item.path for item in items(".", tmp_path, Share(fraction=0.6))}


def test_damaged_archives_give_what_they_can_and_say_where_they_end(tmp_path: Path, song: Song) -> None:
    noise = {f"{number}.mid": song(number, n_notes=200) for number in range(30)}
    tar_with_traps(tmp_path / "x.tar.gz", noise, "w:gz")
    whole = (tmp_path / "x.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    found = items("cut.tar.gz", tmp_path)
    assert 0 < sum(not item.reject for item in found) < 30
    assert found[-1].reject
    for name, data in (("text.tar", b"text" * 1000), ("text.zip", b"text"), ("empty.tar.gz", b""), ("x.wad", b"IWAD")):
        (tmp_path / name).write_bytes(data)
        (item,) = items(name, tmp_path)
        assert item.reject


def test_one_damaged_member_of_a_zip_leaves_the_others(tmp_path: Path, song: Song) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.mid", song(number))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.index(song(1)) + 30] ^= 255  # breaks the checksum of the second
    (tmp_path / "x.zip").write_bytes(data)
    assert [bool(item.reject) for item in items("x.zip", tmp_path)] == [False, True, False]


def test_midi_lumps_of_a_wad(tmp_path: Path, song: Song) -> None:
    lumps = [
        (b"D_E1M1", song(1)),
        (b"TEXTURE1", b"a texture" * 9),
        (b"D_RUNNIN", song(2)),
        (b"MAP01", b""),
    ]
    body, directory = b"", b""
    for name, data in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name)
        body += data
    header = struct.pack("<4sii", b"PWAD", len(lumps) + 1, 12 + len(body))
    lie = struct.pack("<ii8s", 40, 2**31 - 1, b"LIAR")
    (tmp_path / "game.wad").write_bytes(header + body + directory + lie)
    found = items("game.wad", tmp_path)
    assert [(item.path, item.data) for item in found] == [("game.wad/D_E1M1", song(1)), ("game.wad/D_RUNNIN", song(2))]


def test_music21_names_allowed_scores_only() -> None:
    found = containers("music21", root=Path("."), corpora=Path("."))
    assert len(found) >= 400
    assert {one.label.split("/")[0] for one in found} <= set(ALLOWED)
    labels = {one.label for one in found}
    assert "bach/bwv66.6.mxl" in labels
    assert not labels & {"bach/bwv281.krn", "monteverdi/madrigal.5.4.mxl"}
    assert len(containers("music21/palestrina", root=Path("."), corpora=Path("."))) > 1000


def test_no_score_of_the_default_corpus_carries_a_restriction() -> None:
    for label, file in music21_scores():
        data = file.read_bytes()
        if file.suffix == ".mxl":
            with zipfile.ZipFile(file) as archive:
                name = next(name for name in archive.namelist() if "META" not in name)
                with archive.open(name) as score:
                    data = score.read(6000)
        for words in (b"reserved", b"licensing agreement", b"ORPHEUS", b"non-commercial"):
            assert words not in data[:6000] and words not in data[-3000:], label


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "does not exist"),
        ("empty", "holds no music file"),
        ("song.txt", "holds no music file"),
        ("music21/essenFolksong", "not a source"),
        ("freedoom", "corpus fetch freedoom"),
        ("timgm6mb", "soundfont"),
    ],
)
def test_sources_that_are_not_there_say_what_to_do(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "song.txt").write_text("la")
    with pytest.raises(TimbreflowError, match=message):
        containers(source, root=tmp_path, corpora=tmp_path / "corpora")


def test_a_file_that_vanishes_is_an_item_with_an_error(tmp_path: Path) -> None:
    (item,) = read_items(Container("a.mid", str(tmp_path / "a.mid"), "file"), max_bytes=100, share=Share())
    assert "cannot be read" in str(item.reject)
