"""The records of what was served: files of JSON lines, one row a transfer.

`FOLDER/2026-11-30-001.jsonl` holds rows of one day (UTC). A row is written whole, under a lock that all processes of a
machine share; a file that has grown large is followed by the next number, and the oldest are deleted when all together
would take more than a limit. `record_table` reads them; a server that writes them needs no pandas.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

FORMAT = 1
MAX_BYTES = 64_000_000
"""Of a folder: some 100,000 transfers."""
FILES = 16
"""A file is followed by the next when it has a 16th of what all may take."""
_NAME = re.compile(r"(\d{4}-\d\d-\d\d)-(\d{3,})\.jsonl")


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


def files_of(folder: Path) -> list[Path]:
    """Record files of a folder, the oldest first."""
    found = [(match.groups(), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for (_, _), path in sorted(found, key=lambda each: (each[0][0], int(each[0][1])))]


def _current(folder: Path, now: datetime, coming: int, max_bytes: int) -> Path:
    """The file that gets the next bytes; before a new one is begun, room is made for all that it may hold."""
    files, day = files_of(folder), now.date().isoformat()
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
