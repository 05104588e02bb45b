"""The records of what was served, read as a table. A line that a crash cut short is left out and counted."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from timbreflow.errors import TimbreflowError
from timbreflow.monitoring.records import FORMAT, files_of


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


def read_records(folder: Path, *, days: int, now: datetime | None = None) -> Records:
    """Rows of the last days.

    Raises:
        TimbreflowError: there is no such folder.
    """
    if not folder.is_dir():
        raise TimbreflowError(
            f"{folder} is no folder of records; name the folder given to `timbreflow serve --record`."
        )
    since = (now or datetime.now(UTC)) - timedelta(days=days)
    rows, broken = [], 0
    for path in files_of(folder):
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
