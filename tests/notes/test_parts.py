"""Parts: what a file does to the process that reads it, kills and resumption, archives with everything in them."""

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.notes import parts, reading
from timbreflow.notes.collect import CollectConfig, collect_shard, plan_shards
from timbreflow.notes.parts import part_folders, read_parts
from timbreflow.notes.pieces import ReadLimits
from timbreflow.notes.sources.archives import Item
from timbreflow.notes.tables import NoteTables

Song = Callable[..., bytes]
Config = Callable[..., CollectConfig]

# A reading process whose parser does what the name of a file says.
BAD_PARSER = """
import os, signal, time
from timbreflow.notes import reading
real = reading.read_piece
def read_piece(item, limits):
    if "computes" in item.path:
        while True:
            pass
    if "waits" in item.path:
        time.sleep(3600)
    if "crashes" in item.path:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "greedy" in item.path:
        bytearray(2 * 10**9)
    return real(item, limits)
reading.read_piece = read_piece
reading._WALL_FACTOR = 10
reading.main()
"""


def items(songs: dict[str, bytes]) -> list[Item]:
    """Files as they come from a source."""
    return [Item(name, data, len(data)) for name, data in songs.items()]


def read(folder: Path, songs: dict[str, bytes], limits: ReadLimits, *, workers: int = 1) -> None:
    """All files to parts."""
    read_parts("songs", items(songs), folder, limits, left_out=(), workers=workers)


def reasons(folder: Path) -> dict[str, tuple[str, str]]:
    """Path -> reason and detail, of all parts."""
    tables = [pd.read_parquet(part / "rejects-00000.parquet") for part in part_folders(folder)]
    return {row.path: (row.reason, row.detail) for table in tables for row in table.itertuples()}


def contents(folder: Path) -> dict[str, bytes]:
    """All files of all parts."""
    return {f"{part.name}/{file.name}": file.read_bytes() for part in part_folders(folder) for file in part.iterdir()}


def test_no_file_stops_or_fills_the_others(
    tmp_path: Path, song: Song, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parser.py").write_text(BAD_PARSER)
    monkeypatch.setattr(reading, "_COMMAND", [sys.executable, str(tmp_path / "parser.py")])
    limits = replace(config("songs").limits, max_seconds=1.0, max_memory=500_000_000)
    names = ("first", "computes", "second", "waits", "crashes", "greedy", "last")
    read(tmp_path / "out", {f"{name}.mid": song(number) for number, name in enumerate(names)}, limits)
    assert NoteTables.read(tmp_path / "out" / "00000").pieces["path"].tolist() == [
        "first.mid",
        "second.mid",
        "last.mid",
    ]
    found = reasons(tmp_path / "out")
    assert {name: reason for name, (reason, _) in found.items()} == {
        "computes.mid": "too_slow",
        "waits.mid": "too_slow",
        "crashes.mid": "broken",
        "greedy.mid": "too_large",
    }
    assert "more than 1 s" in found["computes.mid"][1]
    assert "status -11" in found["crashes.mid"][1]
    assert "500 MB" in found["greedy.mid"][1]


def test_a_process_that_cannot_start_is_one_sentence(
    tmp_path: Path, song: Song, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_COMMAND", [sys.executable, "-c", "raise SystemExit(7)"])
    limits = replace(config("songs").limits, max_seconds=19.0)  # or a process of another test would be used
    with pytest.raises(TimbreflowError, match=r"songs ended 3 times \(status 7\)"):
        read(tmp_path / "out", {"a.mid": song()}, limits)


def test_a_broken_off_run_goes_on_and_workers_change_no_byte(
    tmp_path: Path, song: Song, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "BATCH_FILES", 2)
    limits = config("songs").limits
    # Twins within a part, and across parts in both directions of what is finished first.
    seeds = (0, 0, 1, 2, 3, 1, 0, 4, 5, 5)
    songs = {f"{number}.mid": song(seed) for number, seed in enumerate(seeds)}
    read(tmp_path / "whole", songs, limits)
    assert len(part_folders(tmp_path / "whole")) == 5
    assert {path: detail.split(": ")[1] for path, (_, detail) in reasons(tmp_path / "whole").items()} == {
        "1.mid": "0.mid.",
        "5.mid": "2.mid.",
        "6.mid": "0.mid.",
        "9.mid": "8.mid.",
    }

    def broken_off() -> Iterator[Item]:
        yield from items(songs)[:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_parts("songs", broken_off(), tmp_path / "broken", limits, left_out=(), workers=1)
    before = {part.name: part.stat().st_mtime_ns for part in part_folders(tmp_path / "broken")}
    assert 0 < len(before) < 5
    read(tmp_path / "broken", songs, limits, workers=2)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    after = {part.name: part.stat().st_mtime_ns for part in part_folders(tmp_path / "broken")}
    assert {name: after[name] for name in before} == before


def add(
    archive: tarfile.TarFile, name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, size: int = -1
) -> None:
    """Add a member, whose header may claim another size than it has."""
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "00.mid" if kind == tarfile.LNKTYPE else "/etc/passwd"
    member.size = len(data) if size < 0 else size
    if size < 0:
        archive.addfile(member, io.BytesIO(data))
    else:
        assert archive.fileobj is not None
        archive.fileobj.write(member.tobuf(tarfile.GNU_FORMAT) + data)


def endless(song: bytes) -> bytes:
    """A file of 10^9 ticks."""
    longest = b"\xff\xff\xff\x7f"  # 268,435,455 ticks
    events = b"\x00\x90\x3c\x50" + (longest + b"\x80\x3c\x00\x00\x90\x3c\x50") * 4 + b"\x00\x80\x3c\x00\x00\xff\x2f\x00"
    return song[:10] + b"\x00\x01" + song[12:14] + b"MTrk" + len(events).to_bytes(4, "big") + events


@pytest.mark.parametrize("end", ["whole", "cut", "2 GB member", "2 GB name"])
def test_an_archive_of_traps(end: str, tmp_path: Path, song: Song, config: Config) -> None:
    path = tmp_path / "traps.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        add(archive, "00.mid", song(0))
        add(archive, "../../outside.mid", song(1))
        add(archive, "/absolute.mid", song(2))
        add(archive, "caf\xe9.mid", song(3))
        add(archive, "symbolic.mid", kind=tarfile.SYMTYPE)
        add(archive, "hard.mid", kind=tarfile.LNKTYPE)
        add(archive, "ticks.mid", endless(song(0)))
        if end == "2 GB member":
            add(archive, "huge.mid", b"\x00" * 2_100_000, size=2 * 10**9)
        if end == "2 GB name":
            add(archive, "././@LongLink", b"x" * 10_000, kind=tarfile.GNUTYPE_LONGNAME, size=2 * 10**9)
    if end == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    before = sorted(tmp_path.iterdir())
    settings = config("traps.tar.gz")
    (shard,) = plan_shards(settings, root=tmp_path, corpora=tmp_path)
    collect_shard(shard, tmp_path / "out", settings)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])
    found = {name: reason for name, (reason, _) in reasons(tmp_path / "out").items()}
    expected = {"traps.tar.gz/ticks.mid": "too_many_ticks"}
    expected |= {f"traps.tar.gz/{name}.mid": "passed_over" for name in ("symbolic", "hard")}
    if end in ("cut", "2 GB name"):
        expected["traps.tar.gz"] = "broken"
    elif end == "2 GB member":
        expected |= {"traps.tar.gz/huge.mid": "too_large", "traps.tar.gz": "broken"}
    if end != "cut":  # where the compressed bytes end, its last files may be lost
        assert found == expected
        pieces = NoteTables.read(tmp_path / "out" / "00000").pieces["path"].tolist()
        assert [name.removeprefix("traps.tar.gz/") for name in pieces] == [
            "00.mid",
            "../../outside.mid",
            "/absolute.mid",
            "caf?.mid",
        ]
    else:
        assert found["traps.tar.gz"] == "broken"
