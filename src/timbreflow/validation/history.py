"""All validations of a checkout, passed and failed: one row each, the page of the last one, and what is raised."""

import csv
import io
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from timbreflow.errors import TimbreflowError
from timbreflow.files import write_text
from timbreflow.validation.failure import NAMED_FAILURES, InvalidData
from timbreflow.validation.run import Outcome

COLUMNS = ("time", "data", "digest", "rows", "expectations", "failed", "failures")
SHOWN = 20
"""Latest validations on the page and in Prefect."""


def read_history(path: Path) -> list[dict[str, str]]:
    """Rows of a history, the latest first; none where there is no file.

    Raises:
        TimbreflowError: the file is no history.
    """
    if not path.is_file():
        return []
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8", errors="replace"), newline="")))
    if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise TimbreflowError(f"{path} is no history of validations; move it away, and a new one begins.")
    return rows[::-1]


def conclude(
    outcome: Outcome, *, data: str, digest: str, page: Path, history: Path, remedy: str
) -> list[dict[str, str]]:
    """Keep what came of a validation: a row of the history, and a page that needs no network.

    Args:
        outcome: of the suites.
        data: what was looked at, such as "notes".
        digest: of it.
        page: HTML file, replaced.
        history: CSV file, which gets a row.
        remedy: what to do where something failed, after "open PAGE, ".

    Returns:
        The latest rows of the history, the newest first.

    Raises:
        InvalidData: an expectation failed; page and history are written then too.
        TimbreflowError: the history cannot be read.
    """
    row = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": data,
        "digest": digest,
        "rows": str(sum(outcome.rows.values())),
        "expectations": str(len(outcome.checked)),
        "failed": str(len(outcome.failures)),
        "failures": "; ".join(map(str, outcome.failures[:NAMED_FAILURES])),
    }
    rows = [row, *read_history(history)]
    with io.StringIO(newline="") as text:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(reversed(rows))
        write_text(history, text.getvalue())
    write_text(page, _template().render(outcome=outcome, data=data, now=row, rows=rows[:SHOWN], columns=COLUMNS))
    if outcome.failures:
        raise InvalidData(outcome.failures, page, what=data, remedy=remedy)
    return rows[:SHOWN]


@cache
def _template() -> Any:
    text = (resources.files("timbreflow.validation") / "templates" / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)
