"""Nothing is ever half-written, and hashes are the same everywhere."""

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
