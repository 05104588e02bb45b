"""Stage collect_midi: shards, resuming, metrics, and `timbreflow collect`."""

import fcntl
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pretty_midi
import pytest

from tests.small_disk import small_disk
from timbreflow.errors import TimbreflowError
from timbreflow.notes import collect, parts
from timbreflow.notes.collect import CollectConfig
from timbreflow.notes.sources.archives import Item
from timbreflow.notes.tables import SCHEMAS, NoteTables, table_file
from timbreflow.stages import collect_midi
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult

CONFIG = CollectConfig(
    sources=("songs",),
    fractions={},
    leave_out=(),
    max_bytes=1_000_000,
    max_ticks=10_000_000,
    max_duration=3600.0,
    max_notes=100_000,
    min_notes=4,
    max_seconds=20.0,
    max_memory=1_000_000_000,
    files_per_shard=4,
)


def song(seed: int) -> bytes:
    """A short scale, another one for each seed."""
    midi = pretty_midi.PrettyMIDI()
    part = pretty_midi.Instrument(seed % 100)
    part.notes = [pretty_midi.Note(80, 30 + seed + k, 0.5 * k, 0.5 * k + 0.4) for k in range(16)]
    midi.instruments.append(part)
    file = io.BytesIO()
    midi.write(file)
    return file.getvalue()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A checkout with ten songs, one of them twice, and a broken file."""
    (tmp_path / "songs").mkdir()
    for number in range(10):
        (tmp_path / "songs" / f"{number}.mid").write_bytes(song(number))
    (tmp_path / "songs" / "twin.mid").write_bytes(song(0))
    (tmp_path / "songs" / "broken.mid").write_bytes(b"no")
    return Layout(tmp_path)


def run(layout: Layout, config: CollectConfig = CONFIG) -> StageResult:
    """The stage in one process."""
    for shard in collect_midi.plan(config, layout=layout):
        collect_midi.run_one(shard, config, layout=layout)
    return collect_midi.finish(config, layout=layout)


def test_the_stage_writes_tables_and_metrics(layout: Layout) -> None:
    report = run(layout)
    metrics = json.loads((layout.results("collect_midi") / "metrics.json").read_text())
    assert metrics["n_pieces"] == 10 and metrics["n_notes"] == 160
    assert metrics["rejects"] == {"broken": 1, "duplicate": 1}
    assert report.metrics["n_rejects"] == 2.0
    assert [(row["reason"], row["files"]) for row in report.tables["rejects"]] == [("broken", 1), ("duplicate", 1)]
    assert "10 pieces" in report.summary
    assert len(NoteTables.read(layout.notes).pieces) == 10
    assert not list(layout.root.glob(".scratch/collect_midi/*"))


def test_shards_do_not_change_the_bytes_and_order_of_work_does_not_either(layout: Layout) -> None:
    run(layout)
    first = {name: table_file(layout.notes, name, 0).read_bytes() for name in SCHEMAS}
    for shard in reversed(collect_midi.plan(CONFIG, layout=layout)):
        collect_midi.run_one(shard, CONFIG, layout=layout)
    collect_midi.finish(CONFIG, layout=layout)
    assert {name: table_file(layout.notes, name, 0).read_bytes() for name in SCHEMAS} == first


def test_finished_shards_are_kept_and_missing_ones_named(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = collect_midi.plan(CONFIG, layout=layout)
    assert len(shards) == 3
    collect_midi.run_one(shards[0], CONFIG, layout=layout)
    with pytest.raises(TimbreflowError, match="2 of 3 shards are missing"):
        collect_midi.finish(CONFIG, layout=layout)
    read = []
    real = collect.read_parts

    def counted(source: str, items: Iterable[Item], *rest: object, **more: object) -> None:
        found = list(items)
        read.extend(item.path for item in found)
        real(source, found, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(collect, "read_parts", counted)
    run(layout)
    assert read == [container.label for shard in shards[1:] for container in shard.plan.containers]


def test_a_failed_run_keeps_the_old_tables(layout: Layout) -> None:
    run(layout)
    for path in (layout.root / "songs").iterdir():
        path.write_bytes(b"text")
    with pytest.raises(TimbreflowError, match="no usable piece.*12 broken"):
        run(layout)
    assert len(NoteTables.read(layout.notes).pieces) == 10


def test_collect_with_processes_equals_the_stage(layout: Layout) -> None:
    run(layout)
    out = layout.root / "new" / "tables"
    report = collect_midi.collect(["songs"], out, CONFIG, root=layout.root, workers=2)
    assert report.summary.startswith("10 pieces")
    assert report.summary.endswith("2 files rejected (1 broken, 1 duplicate).")
    for name in SCHEMAS:
        assert table_file(out, name, 0).read_bytes() == table_file(layout.notes, name, 0).read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == ["tables"]


def test_workers_come_from_the_environment(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(layout.root)
    monkeypatch.setenv("TIMBREFLOW_WORKERS", "1")
    assert collect_midi.collect(["songs"], Path("out"), CONFIG).metrics["n_pieces"] == 10
    monkeypatch.setenv("TIMBREFLOW_WORKERS", "many")
    with pytest.raises(TimbreflowError, match="TIMBREFLOW_WORKERS is 'many'"):
        collect_midi.collect(["songs"], Path("out"), CONFIG)


def test_collect_replaces_tables_but_no_other_folder(layout: Layout) -> None:
    out = layout.root / "out"
    for _ in range(2):
        collect_midi.collect(["songs/1.mid"], out, CONFIG, root=layout.root, workers=1)
    assert len(NoteTables.read(out).pieces) == 1
    (out / "thesis.txt").write_text("years of work")
    for target in (out, layout.root / "songs" / "1.mid"):
        with pytest.raises(TimbreflowError, match="name a"):
            collect_midi.collect(["songs"], target, CONFIG, root=layout.root, workers=1)
    assert (out / "thesis.txt").exists()


def test_two_at_once_into_one_folder(layout: Layout) -> None:
    out = layout.root / "out"
    scratch = layout.root / ".out-unfinished"
    scratch.mkdir()
    with open(scratch / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TimbreflowError, match="another process collects into .*out"):
            collect_midi.collect(["songs"], out, CONFIG, root=layout.root, workers=1)
    assert collect_midi.collect(["songs"], out, CONFIG, root=layout.root, workers=1).metrics["n_pieces"] == 10
    assert not scratch.exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 kB."""
    with small_disk(tmp_path / "disk", 128):
        yield tmp_path / "disk"


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "BATCH_FILES", 2)
    with tarfile.open(tmp_path / "songs.tar", "w") as archive:
        for number in range(40):
            member = tarfile.TarInfo(f"{number}.mid")
            data = song(number)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    source, out = [str(tmp_path / "songs.tar")], disk / "out"
    with pytest.raises(TimbreflowError, match="cannot be written .*make room on its disk") as caught:
        collect_midi.collect(source, out, CONFIG, workers=1)
    assert str(caught.value).count("\n") == 0
    assert not out.exists()
    finished = {path: path.stat().st_mtime_ns for path in disk.glob(".out-unfinished/*/*/*/notes-*")}
    assert 0 < len(finished) < 20
    subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
    report = collect_midi.collect(source, out, CONFIG, workers=1)
    assert report.metrics["n_pieces"] == 40
    assert {path.stat().st_mtime_ns for path in out.glob("notes-*")} >= set(finished.values())
    assert [path.name for path in disk.iterdir()] == ["out"]
    collect_midi.collect(source, tmp_path / "unbroken", CONFIG, workers=1)
    for path in (tmp_path / "unbroken").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
