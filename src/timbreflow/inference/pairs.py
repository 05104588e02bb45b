"""A table of transfers: columns id, content, style."""

import codecs
import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timbreflow.errors import TimbreflowError

COLUMNS = ("id", "content", "style")
SEPARATORS = (",", ";", "\t", "|")
LONGEST_ID = 100
MOST_BYTES = 20_000_000


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
        table: CSV file with a header line, as spreadsheets write it; relative paths in it start from its own folder.

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
        paths = {column: _place(table, values[column]) for column in ("content", "style")}
        for column, path in paths.items():
            # Unlike that of Path, this isfile takes any name.
            if not os.path.isfile(path):
                raise TimbreflowError(f"{table}, line {line}: {column} {path} is missing; correct the path.")
        pairs.append(Pair(name, paths["content"], paths["style"]))
    if not pairs:
        raise TimbreflowError(f"{table} has no rows; write one line for each transfer below {','.join(COLUMNS)}.")
    return pairs


def _place(table: Path, name: str) -> Path:
    """The file of a name; one that is not UTF-8 is the file's own bytes, or a spreadsheet's Windows-1252."""
    # Unlike that of Path, this expanduser leaves ~name alone where there is no such user.
    path = table.parent / os.path.expanduser(name)
    if name.isprintable() or os.path.isfile(path):
        return path
    windows = table.parent / os.path.expanduser(os.fsencode(name).decode("cp1252", "replace"))
    return windows if os.path.isfile(windows) else path


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and cells of CSV with commas, semicolons, tabs or bars, in UTF-8 or UTF-16."""
    if not table.is_file():
        raise TimbreflowError(f"{table} is missing; name a CSV file with the columns {', '.join(COLUMNS)}.")
    if table.stat().st_size > MOST_BYTES:
        raise TimbreflowError(f"{table} has over {MOST_BYTES // 1_000_000} MB; split it into several tables.")
    data = table.read_bytes()
    try:
        # Marks that spreadsheets write at the start would become part of the first column's name.
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        # Names of files need not be UTF-8: what cannot be decoded stays as it is.
        text = data.decode("utf-16") if wide else data.decode("utf-8-sig", "surrogateescape")
        first, _, rest = text.partition("\n")
        named = first.strip('\r"')[4:5] if first.strip('"').lower().startswith("sep=") else None
        body, skipped = (text, 0) if named is None else (rest, 1)
        for separator in [named, *SEPARATORS] if named else SEPARATORS:
            rows = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True)
            head = [cell.strip().lower() for cell in next(rows, [])]
            if set(COLUMNS) <= set(head):
                full = ((rows.line_num + skipped, row) for row in rows if any(map(str.strip, row)))
                return [(line, _cells(table, line, head, row)) for line, row in full]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TimbreflowError(f"{table} is not a CSV file in UTF-8 ({error}); save it as one.") from error
    words = {cell.strip().strip('"').lower() for cell in re.split(r"[,;\t|]", body.partition("\n")[0])}
    missing = [column for column in COLUMNS if column not in words]
    raise TimbreflowError(
        f"{table} has no column {', '.join(missing or COLUMNS)}; its first line must name {', '.join(COLUMNS)}, "
        "with commas, semicolons or tabs between them."
    )


def _cells(table: Path, line: int, head: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    if any(cell.strip() for cell in row[len(head) :]):
        raise TimbreflowError(
            f"{table}, line {line} has {len(row)} cells below {len(head)} columns; "
            'put names that hold the separator in "quotes".'
        )
    return dict(zip(head, row, strict=False))


def _is_plain_name(name: str) -> bool:
    plain = all(letter.isalnum() or letter in "._- " for letter in name)
    return plain and len(name) <= LONGEST_ID and not name.startswith((".", " ", "-")) and not name.endswith(".")
