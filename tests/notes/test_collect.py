"""Collecting: 50 good files among broken ones of every kind, duplicates, limits, and the same result however shared."""

import gzip
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.notes.collect import (
    CollectConfig,
    ShardPlan,
    Totals,
    collect_shard,
    fingerprint,
    merge_shards,
    plan_shards,
)
from timbreflow.notes.tables import NoteTables

Song = Callable[..., bytes]
Config = Callable[..., CollectConfig]


def gather(config: CollectConfig, root: Path) -> tuple[Totals, Path]:
    """Plan, read and merge; returns the totals and the folder of tables."""
    shards = plan_shards(config, root=root, corpora=root / "corpora")
    folders = [root / f"shard-{number}" for number in range(len(shards))]
    for shard, folder in zip(shards, folders, strict=True):
        collect_shard(shard, folder, config)
    out = root / "out"
    out.mkdir()
    return merge_shards(shards, folders, out, config), out


def bad_files(song: Song) -> dict[str, tuple[bytes, str]]:
    """Name -> (bytes, true reason); the duplicate is one beside song(17)."""
    header = song(0)[:14]
    long_delta = b"\x89\xc4\xda\x00"  # 20,000,000 ticks
    events = b"\x00\x90\x3c\x50" + long_delta + b"\x80\x3c\x00\x00\xff\x2f\x00"
    one_track = header[:10] + b"\x00\x01" + header[12:] + b"MTrk"
    return {
        "text.mid": (b"This is a letter.", "broken"),
        "empty.mid": (b"", "broken"),
        "cut.mid": (song(1)[:200], "broken"),
        "header.mid": (header, "broken"),
        "random.mid": (bytes(range(256)) * 20, "broken"),
        "drums.mid": (song(3, programs=(), drums=True), "drums_only"),
        "silent.mid": (song(0, programs=()), "no_notes"),
        "ticks.mid": (one_track + len(events).to_bytes(4, "big") + events, "too_many_ticks"),
        "claims.mid": (one_track + b"\x7f\xff\xff\xff" + events, "too_many_ticks"),
        "twin.mid": (song(17), "duplicate"),
    }


def test_fifty_good_and_ten_bad_files(tmp_path: Path, song: Song, config: Config) -> None:
    for number in range(50):
        name = f"{number % 3}/deep/{number}.{('mid', 'midi', 'MID')[number % 3]}"
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(song(number, drums=number % 2 == 0))
    expected = {}
    for name, (data, reason) in bad_files(song).items():
        # The duplicate has no drums in its other half, so it must be the very file to be one.
        (tmp_path / "in" / f"x{name}").write_bytes(song(17, drums=False) if reason == "duplicate" else data)
        expected[f"x{name}"] = reason
    totals, out = gather(config("in"), tmp_path)
    rejects = pd.read_parquet(out / "rejects-00000.parquet")
    assert dict(zip(rejects["path"], rejects["reason"], strict=True)) == expected
    assert rejects["detail"].str.len().min() > 10
    tables = NoteTables.read(out)
    assert totals.n_pieces == len(tables.pieces) == 50
    assert totals.n_notes == tables.pieces["n_notes"].sum() == 50 * 48 + 25 * 24
    assert totals.n_tracks == len(tables.tracks) == 125
    assert totals.rejects == {"broken": 5, "drums_only": 1, "duplicate": 1, "no_notes": 1, "too_many_ticks": 2}
    assert totals.hours == pytest.approx(tables.pieces["duration"].sum() / 3600, rel=1e-5)
    assert set(tables.tracks["program"]) == {0, 40}
    for piece, track in zip(tables.tracks["piece_id"], tables.tracks["track"], strict=True):
        assert len(tables.notes(piece, track)) == 24


def test_folder_zip_and_tar_of_the_same_files_give_the_same_pieces(tmp_path: Path, song: Song, config: Config) -> None:
    import zipfile

    files = {f"{number}.mid": song(number) for number in range(20)} | {"bad.mid": b"x"}
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name, data in files.items():
            (tmp_path / "in" / name).write_bytes(data)
            archive.writestr(name, data)
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "in", "in")
    found = []
    for number, source in enumerate(("in", "in.zip", "in.tar.gz")):
        root = tmp_path / f"run{number}"
        root.mkdir()
        totals, out = gather(config(str(tmp_path / source)), root)
        assert totals.rejects == {"broken": 1}
        found.append(set(NoteTables.read(out).pieces["piece_id"]))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 20


def test_files_that_the_settings_leave_out_are_not_taken(tmp_path: Path, song: Song, config: Config) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.mid").write_bytes(song(number))
    totals, out = gather(config("in", leave_out=("in/1.mid",)), tmp_path)
    assert totals.rejects == {"left_out": 1}
    assert pd.read_parquet(out / "rejects-00000.parquet")["path"].tolist() == ["1.mid"]
    assert NoteTables.read(out).pieces["path"].tolist() == ["0.mid", "2.mid"]


def test_duplicates_in_two_sources_are_dropped_once(tmp_path: Path, song: Song, config: Config) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(5):
            (tmp_path / folder / f"{number}.mid").write_bytes(song(number))
    (tmp_path / "b" / "own.mid").write_bytes(song(99))
    totals, out = gather(config("a", "b", files_per_shard=2), tmp_path)
    tables = NoteTables.read(out)
    assert totals.n_pieces == 6 and totals.rejects == {"duplicate": 5}
    assert tables.pieces["source"].tolist() == ["a"] * 5 + ["b"]
    assert tables.pieces["piece_id"].is_unique
    for piece, track in zip(tables.tracks["piece_id"], tables.tracks["track"], strict=True):
        assert len(tables.notes(piece, track)) == 24
    assert all("a: " in detail for detail in pd.read_parquet(out / "rejects-00000.parquet")["detail"])


def test_no_usable_piece_lists_the_reasons(tmp_path: Path, song: Song, config: Config) -> None:
    (tmp_path / "in").mkdir()
    for name, (data, reason) in bad_files(song).items():
        if reason != "duplicate":
            (tmp_path / "in" / name).write_bytes(data)
    with pytest.raises(TimbreflowError, match="5 broken.*2 too_many_ticks.*1 drums_only.*1 no_notes"):
        gather(config("in"), tmp_path)


def test_scores_and_midi_are_told_apart_by_their_bytes(tmp_path: Path, song: Song, config: Config) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "midi-really.xml").write_bytes(song(1))
    (tmp_path / "in" / "page.xml").write_bytes(b"<html/>")
    (tmp_path / "in" / "scale.krn").write_bytes(b"**kern\n" + b"4c\n4d\n" * 4)
    totals, out = gather(config("in"), tmp_path)
    assert NoteTables.read(out).pieces["path"].tolist() == ["midi-really.xml", "scale.krn"]
    assert totals.rejects == {"broken": 1}


def test_packed_files_are_read_and_others_are_named(tmp_path: Path, song: Song, config: Config) -> None:
    (tmp_path / "in").mkdir()
    two_tracks = song(4)
    for name, data in {
        "a.mid.gz": gzip.compress(song(1)),
        "b.krn.gz": gzip.compress(b"**kern\n" + b"4c\n4d\n" * 4),
        "c.MID.GZ": gzip.compress(song(2))[:-20],
        "d.mid.gz": gzip.compress(bytes(3_000_000)),
        "e.rmi": b"RIFF" + bytes(4) + b"RMIDdata" + bytes(4) + song(3) + b"LIST\x04\x00\x00\x00abcd",
        "f.mid": two_tracks[:10] + b"\x00\x09" + two_tracks[12:],
        "g.mp3": b"x",
        "h.mscz": b"x",
    }.items():
        (tmp_path / "in" / name).write_bytes(data)
    totals, out = gather(config("in"), tmp_path)
    assert NoteTables.read(out).pieces["path"].tolist() == ["a.mid.gz", "b.krn.gz", "e.rmi", "f.mid"]
    assert totals.rejects == {"broken": 1, "incomplete": 1, "passed_over": 2, "too_large": 1}
    assert totals.examples["passed_over"] == [
        f"{name}: files of its kind are not read." for name in ("g.mp3", "h.mscz")
    ]
    assert "promises 9 tracks" in totals.examples["incomplete"][0]


def test_undecodable_file_names_are_no_obstacle(tmp_path: Path, song: Song, config: Config) -> None:
    (tmp_path / "in").mkdir()
    (Path(tmp_path) / "in" / b"caf\xe9.mid".decode("utf-8", "surrogateescape")).write_bytes(song(1))
    totals, out = gather(config("in"), tmp_path)
    assert totals.n_pieces == 1
    assert NoteTables.read(out).pieces["path"].tolist() == ["caf?.mid"]
    assert fingerprint(plan_shards(config("in"), root=tmp_path, corpora=tmp_path))


def test_plans_are_the_same_twice_and_change_with_the_files(tmp_path: Path, song: Song, config: Config) -> None:
    (tmp_path / "in").mkdir()
    for number in range(9):
        (tmp_path / "in" / f"{number}.mid").write_bytes(song(number))
    plans = plan_shards(config("in", files_per_shard=4), root=tmp_path, corpora=tmp_path)
    assert [len(plan.containers) for plan in plans] == [4, 4, 1]
    assert plans == plan_shards(config("in", files_per_shard=4), root=tmp_path, corpora=tmp_path)
    before = fingerprint(plans)
    (tmp_path / "in" / "3.mid").write_bytes(song(3) + b"\x00")
    assert fingerprint(plans) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "no source"),
        ({"fractions": {"other": 0.5}}, "must name one of the sources"),
        ({"fractions": {"in": 0.0}}, "lie in"),
    ],
)
def test_plans_refuse_nonsense(changes: dict[str, object], message: str, tmp_path: Path, config: Config) -> None:
    with pytest.raises(TimbreflowError, match=message):
        plan_shards(replace(config("in"), **changes), root=tmp_path, corpora=tmp_path)  # type: ignore[arg-type]


def test_a_sample_of_the_music21_corpus(tmp_path: Path, config: Config) -> None:
    totals, out = gather(
        config("music21/haydn", "music21/bach", fractions={"music21/bach": 0.05}, files_per_shard=50), tmp_path
    )
    tables = NoteTables.read(out)
    assert totals.rejects == {}
    assert 15 < len(tables.pieces) < 50
    assert tables.tracks.groupby("piece_id").size().min() >= 4
    assert tables.tracks["mean_pitch"].between(30, 90).all()
    assert tables.tracks["voices"].between(1, 4).all()


@pytest.mark.parametrize("table", ["pieces", "notes", "rejects"])
def test_a_table_of_a_shard_that_is_cut_off_is_named(
    tmp_path: Path, song: Song, config: Config, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mid").write_bytes(song(1))

    whole = collect_shard

    def cut_off(shard: ShardPlan, folder: Path, settings: CollectConfig) -> None:
        whole(shard, folder, settings)
        for path in folder.rglob(f"{table}-*.parquet"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    monkeypatch.setitem(gather.__globals__, "collect_shard", cut_off)
    with pytest.raises(TimbreflowError, match=rf"{table}-00000\.parquet is damaged .*delete the folder .* start again"):
        gather(config("in"), tmp_path)
