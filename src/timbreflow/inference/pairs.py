"""A table of transfers: columns id, content, style."""

import csv
from dataclasses import dataclass
from pathlib import Path

from timbreflow.errors import TimbreflowError

COLUMNS = ("id", "content", "style")
LONGEST_ID = 100


@dataclass(frozen=True)
class Pair:
    """One transfer to do.

    Args:
        id: name of the output, without suffix.
        content: recording whose notes are kept.
        style: recording whose timbre is taken.
    """

    id: str
    content: Path
    style: Path


def read_pairs(table: str | Path) -> list[Pair]:
    """Read and check a whole table, so that a fault in its last row is met before any work is done.

    Args:
        table: CSV file with a header line; relative paths in it start from its own folder.

    Raises:
        TimbreflowError: the table is missing, not CSV text, empty or lacks a column; an id is empty, twice there or not
            a plain file name; a recording is missing.
    """
    table = Path(table)
    pairs: list[Pair] = []
    seen: dict[str, int] = {}
    for line, row in _rows(table):
        values = {column: (row.get(column) or "").strip() for column in COLUMNS}
        empty = [column for column, value in values.items() if not value]
        if empty:
            raise TimbreflowError(f"{table}, line {line}: {', '.join(empty)} is empty; fill it in or remove the line.")
        name = values["id"]
        if not _is_plain_name(name):
            raise TimbreflowError(
                f"{table}, line {line}: id {name!r} is no plain file name; use letters, digits, dots, - and _ "
                f"(at most {LONGEST_ID}), not beginning with a dot."
            )
        # Some file systems take Bach and bach for the same file.
        if name.lower() in seen:
            raise TimbreflowError(
                f"{table}, line {line}: id {name!r} was used in line {seen[name.lower()]}; give each row its own."
            )
        seen[name.lower()] = line
        paths = {column: table.parent / Path(values[column]).expanduser() for column in ("content", "style")}
        for column, path in paths.items():
            if not path.is_file():
                raise TimbreflowError(f"{table}, line {line}: {column} {path} is missing; correct the path.")
        pairs.append(Pair(name, paths["content"], paths["style"]))
    if not pairs:
        raise TimbreflowError(f"{table} has no rows; write one line for each transfer below {','.join(COLUMNS)}.")
    return pairs


def _rows(table: Path) -> list[tuple[int, dict[str, str | None]]]:
    if not table.is_file():
        raise TimbreflowError(f"{table} is missing; name a CSV file with the columns {', '.join(COLUMNS)}.")
    try:
        # utf-8-sig, because spreadsheets write a mark at the start that would become part of the first column's name.
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise TimbreflowError(
                    f"{table} has no column {', '.join(missing)}; its first line must name {', '.join(COLUMNS)}."
                )
            return [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TimbreflowError(f"{table} is not a CSV file in UTF-8 ({error}); save it as one.") from error


def _is_plain_name(name: str) -> bool:
    plain = all(letter.isalnum() or letter in "._- " for letter in name)
    return plain and len(name) <= LONGEST_ID and not name.startswith((".", " ", "-")) and not name.endswith(".")
