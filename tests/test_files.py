"""Nothing is ever half-written, and hashes are the same everywhere."""

import os
import stat
from pathlib import Path

import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, atomic_file, read_json, stable_hash, write_json


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_writer_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.mkdir()
    (path / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(path) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_folder_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with atomic_directory(path) as temporary:
        (temporary / "new").touch()
    assert [file.name for file in path.iterdir()] == ["new"]


def test_the_suffix_survives_so_that_writers_that_look_at_it_work(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "sound.flac") as temporary:
        assert temporary.suffix == ".flac"


def test_json_round_trip_and_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"b": [1, 2.5], "a": None})
    assert read_json(path) == {"a": None, "b": [1, 2.5]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": None, "b": [1, 2.5]}


def test_json_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="gone.json is missing"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(TimbreflowError, match="bad.json is not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_stable_hash_is_the_one_that_the_splits_were_made_with() -> None:
    assert stable_hash("piece", 1) == 8240786892827749253
    assert stable_hash({"a": 1, "b": 2}) == stable_hash({"b": 2, "a": 1})


@pytest.mark.parametrize("umask", [0o077, 0o002, 0o022])
def test_new_things_get_what_the_umask_leaves_and_old_ones_keep_theirs(tmp_path: Path, umask: int) -> None:
    (tmp_path / "old.txt").touch()
    (tmp_path / "old.txt").chmod(0o640)
    (tmp_path / "old").mkdir(mode=0o710)
    before = os.umask(umask)
    try:
        for name in ("new", "old"):
            with atomic_file(tmp_path / f"{name}.txt") as temporary:
                temporary.write_text("x")
            with atomic_directory(tmp_path / name):
                pass
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"new.txt": 0o666 & ~umask, "new": 0o777 & ~umask, "old.txt": 0o640, "old": 0o710 & ~before}


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("file.txt", "folder"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    for _ in range(2):  # a link that leads nowhere yet, and one that leads to the old file
        with atomic_file(tmp_path / "file.txt") as temporary:
            temporary.write_text("x")
        with atomic_directory(tmp_path / "folder") as temporary:
            (temporary / "a").touch()
    assert (tmp_path / "file.txt").is_symlink()
    assert (tmp_path / "folder").is_symlink()
    assert (tmp_path / "elsewhere" / "file.txt").read_text() == "x"
    assert sorted(path.name for path in (tmp_path / "elsewhere").rglob("*")) == ["a", "file.txt", "folder"]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(TimbreflowError, match="pipe is not a file"), atomic_file(tmp_path / "link"):
        pytest.fail("began to write")


def test_long_names_and_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    for name in ("ü" * 120 + ".json", os.fsdecode(b"m\xe9lodie.json")):
        write_json(tmp_path / name, 1)
        assert read_json(tmp_path / name) == 1
