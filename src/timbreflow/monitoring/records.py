"""The records of what was served: files of JSON lines, one row a transfer.

`FOLDER/2026-11-30-001.jsonl` holds rows of one day (UTC). A row is written whole, under a lock that all processes of a
machine share; a file that has grown large is followed by the next number, and the oldest are deleted when all together
would take more than a limit. A reader leaves out a line that a crash cut short, and counts it.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from timbreflow.errors import TimbreflowError

FORMAT = 1
MAX_BYTES = 64_000_000
"""Of a folder: some 100,000 transfers."""
FILES = 16
"""A file is followed by the next when it has a 16th of what all may take."""
_NAME = re.compile(r"(\d{4}-\d\d-\d\d)-(\d{3,})\.jsonl")


@dataclass(frozen=True)
class Records:
    """What was served in some days.

    Attributes:
        table: a row a transfer, sorted by `time` (UTC); `model`, `seconds` that it took, `sample_rate`, and figures as
            `content.band_hz`, `style.band_hz`, `output.band_hz` ...
        broken: lines that could not be read and were left out.
        days: how far it goes back.
    """

    table: pd.DataFrame
    broken: int
    days: int

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> pd.Series:
        """The values [n] that are there; none where no row has the column."""
        return self.table[name].dropna().astype(float) if name in self.table else pd.Series([], dtype=float)


def append(folder: Path, row: Mapping[str, Any], *, now: datetime, max_bytes: int = MAX_BYTES) -> None:
    """Add a row, whole or not at all; processes and threads that write at once wait for each other.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    line = json.dumps({"format": FORMAT, "time": now.isoformat(timespec="milliseconds"), **row}, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder), open(_current(folder, now, len(line) + 2, max_bytes), "a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            # What a crash cut short stays a line of its own.
            line = line if file.read(1) == b"\n" else f"\n{line}"
        data = f"{line}\n".encode()
        if file.write(data) != len(data):
            file.truncate(size)
            raise OSError(f"{file.name} could not be written whole")


def read_records(folder: Path, *, days: int, now: datetime | None = None) -> Records:
    """Rows of the last days.

    Raises:
        TimbreflowError: there is no such folder.
    """
    if not folder.is_dir():
        raise TimbreflowError(
            f"{folder} is no folder of records; name the one that the server or the studio records to."
        )
    since = (now or datetime.now(UTC)) - timedelta(days=days)
    rows, broken = [], 0
    for path in _files(folder):
        if path.name[:10] < since.date().isoformat():
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # a server that records has just deleted it for its age
            continue
        for line in text.splitlines():
            row = _row(line)
            broken += row is None
            if row is not None and row["time"] >= since:
                rows.append(row)
    rows.sort(key=lambda row: row["time"])
    return Records(pd.json_normalize(rows), broken, days)


def _row(line: str) -> dict[str, Any] | None:
    """A line as a row, its time as a datetime; None where it is none."""
    try:
        row = json.loads(line)
        if row["format"] != FORMAT:
            return None
        return {**row, "time": datetime.fromisoformat(row["time"]).astimezone(UTC)}
    except (ValueError, TypeError, KeyError):
        return None


def _files(folder: Path) -> list[Path]:
    """Those of the folder, the oldest first."""
    found = [(match.groups(), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for (_, _), path in sorted(found, key=lambda each: (each[0][0], int(each[0][1])))]


def _current(folder: Path, now: datetime, coming: int, max_bytes: int) -> Path:
    """The file that gets the next bytes; before a new one is begun, room is made for all that it may hold."""
    files, day = _files(folder), now.date().isoformat()
    today = [path for path in files if path.name.startswith(day)]
    if today and today[-1].stat().st_size + coming <= max_bytes // FILES:
        return today[-1]
    number = int(today[-1].stem.rpartition("-")[2]) + 1 if today else 1
    sizes = {path: path.stat().st_size for path in files}
    for path in files:
        if sum(sizes.values()) <= max_bytes - max_bytes // FILES:
            break
        path.unlink()
        del sizes[path]
    return folder / f"{day}-{number:03d}.jsonl"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
