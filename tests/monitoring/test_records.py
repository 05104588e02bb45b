"""Rows are whole, whoever writes at once, whatever a crash left; old ones make room."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.small_disk import small_disk
from timbreflow.errors import TimbreflowError
from timbreflow.monitoring.record_table import read_records
from timbreflow.monitoring.records import append

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from timbreflow.monitoring.records import append
for number in range(300):
    row = {"model": sys.argv[2], "number": number, "filling": "x" * 300}
    append(Path(sys.argv[1]), row, now=datetime(2026, 11, 30, tzinfo=UTC), max_bytes=400_000)
"""


def rows(folder: Path, *numbers: int, now: datetime = NOW) -> None:
    for number in numbers:
        append(folder, {"model": "glow", "seconds": float(number), "content": {"band_hz": 100.0 * number}}, now=now)


def test_rows_come_back_by_time_and_days(tmp_path: Path) -> None:
    rows(tmp_path, 3, now=NOW)
    rows(tmp_path, 1, now=NOW - timedelta(days=3))
    rows(tmp_path, 0, now=NOW - timedelta(days=9))
    found = read_records(tmp_path, days=7, now=NOW)
    assert found.column("content.band_hz").tolist() == [100.0, 300.0]
    assert len(read_records(tmp_path, days=1, now=NOW)) == 1
    assert found.column("style.band_hz").empty
    assert sorted(path.name for path in tmp_path.glob("*.jsonl"))[-1] == "2026-11-30-001.jsonl"


def test_a_line_that_a_crash_cut_short_costs_that_line_alone(tmp_path: Path) -> None:
    rows(tmp_path, 1, 2)
    path = tmp_path / "2026-11-30-001.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    rows(tmp_path, 3, 4)
    found = read_records(tmp_path, days=1, now=NOW)
    assert found.column("seconds").tolist() == [1.0, 3.0, 4.0]
    assert found.broken == 1


@pytest.mark.parametrize("line", ["[1]", '{"format": 2, "time": "2026-11-30"}', '{"format": 1}', "\x00\x00", "null"])
def test_what_is_no_row_is_counted_and_left_out(line: str, tmp_path: Path) -> None:
    rows(tmp_path, 1)
    with open(tmp_path / "2026-11-30-001.jsonl", "a") as file:
        file.write(f"{line}\n")
    found = read_records(tmp_path, days=1, now=NOW)
    assert (len(found), found.broken) == (1, 1)


def test_two_processes_at_once_lose_no_row(tmp_path: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, name]) for name in ("a", "b")]
    assert [process.wait(60) for process in started] == [0, 0]
    found = read_records(tmp_path, days=1, now=NOW)
    assert found.broken == 0
    for name in ("a", "b"):
        assert found.table[found.table["model"] == name]["number"].tolist() == list(range(300))
    assert len(list(tmp_path.glob("*.jsonl"))) > 5, "files followed each other while both wrote"


def test_the_oldest_make_room(tmp_path: Path) -> None:
    for day in range(40):
        for number in range(4):
            row = {"number": 4 * day + number, "filling": "x" * 300}
            append(tmp_path, row, now=NOW + timedelta(days=day), max_bytes=20_000)
            assert sum(path.stat().st_size for path in tmp_path.glob("*.jsonl")) <= 20_000
    kept = read_records(tmp_path, days=40, now=NOW + timedelta(days=40)).table["number"].tolist()
    assert kept == list(range(kept[0], 160))
    assert len(kept) > 20


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64):
        with pytest.raises(OSError, match="No space left|written whole"):
            rows(tmp_path / "disk", *range(2000))
        found = read_records(tmp_path / "disk", days=1, now=NOW)
        assert found.broken == 0
        assert found.column("seconds").tolist() == list(range(len(found)))
        assert 100 < len(found) < 2000


def test_a_row_is_one_line_of_plain_json(tmp_path: Path) -> None:
    rows(tmp_path, 1)
    (line,) = (tmp_path / "2026-11-30-001.jsonl").read_text().splitlines()
    assert json.loads(line)["time"] == "2026-11-30T12:00:00.000+00:00"


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="nowhere is no folder of records"):
        read_records(tmp_path / "nowhere", days=1)
