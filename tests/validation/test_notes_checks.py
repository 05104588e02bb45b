"""Notes that cannot be rendered from are refused, each fault by its name; the page needs no network."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.stages.test_render_triples import write_notes
from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import SCHEMAS, table_file
from timbreflow.validation.failure import InvalidData
from timbreflow.validation.history import COLUMNS, read_history
from timbreflow.validation.notes import CONTRACTS, check_notes, notes_tables

Change = Callable[[pd.DataFrame], pd.DataFrame]


def edit(folder: Path, table: str, change: Change) -> None:
    path = table_file(folder, table, 0)
    changed, schema = change(pq.read_table(path).to_pandas()), SCHEMAS[table]
    # Column by column, as the writer does: NaN stays a number and does not become a missing value.
    columns = [pa.array(changed[field.name].to_numpy(), field.type, from_pandas=False) for field in schema]
    pq.write_table(pa.table(columns, schema=schema), path)


def first(column: str, value: object) -> Change:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[0, column] = value
        return table

    return change


def twice(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(piece_id=table["piece_id"].where(table.index != 1, table["piece_id"][0]))


def check(folder: Path) -> list[dict[str, str]]:
    return check_notes(folder / "notes", page=folder / "index.html", history=folder / "history.csv")


FAULTS: dict[str, tuple[str, Change, str]] = {
    "a piece twice": ("pieces", twice, "suite pieces, column piece_id: .*unique"),
    "no length": ("pieces", first("duration", 0.0), "suite pieces, column duration"),
    "a track less than promised": ("pieces", first("n_tracks", 3), "suite pieces, column n_tracks, tracks_there"),
    "a program that is none": ("tracks", first("program", 128), "suite tracks, column program: .* 1 of 32 rows"),
    "a track of no piece": ("tracks", first("piece_id", "f" * 16), "suite tracks, column known_piece"),
    "a pitch that is none": ("notes", first("pitch", 200), "suite notes, column highest_pitch"),
    "a note of no length": ("notes", first("duration", 0.0), "suite notes, column shortest"),
    "a silent note": ("notes", first("velocity", 0), "suite notes, column softest"),
    "NaN": ("notes", first("onset", float("nan")), "suite notes, column finite"),
    "a note before the piece": ("notes", first("onset", -1.0), "suite notes, column first_onset"),
    "a note behind the piece": ("notes", first("onset", 99.0), "suite notes, column in_time"),
    "notes of no piece": ("notes", first("piece_id", "f" * 16), "suite notes, column known_pieces"),
    "a note more than promised": ("notes", lambda t: pd.concat([t, t.tail(1)]), "suite notes, column n_notes, prom"),
    "all notes too high": ("notes", lambda t: t.assign(pitch=120), "suite contracts, column kept: .* 2 of 7 rows"),
    "seconds taken for minutes": ("notes", lambda t: t.assign(onset=0.0, duration=12.0), "suite contracts, .* kept"),
}  # fmt: skip


def test_good_notes_pass_and_leave_a_page_and_a_row(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes")
    rows = check(tmp_path)
    assert rows == read_history(tmp_path / "history.csv")
    assert (rows[0]["data"], rows[0]["failed"]) == ("notes", "0")
    page = (tmp_path / "index.html").read_text()
    assert "<strong>Passed</strong>" in page
    assert set(CONTRACTS) == set(notes_tables(tmp_path / "notes")["contracts"]["contract"])
    # Nothing is fetched: the page shows the same without a network.
    assert not re.search(r"(src|href)=|@import|url\(", page)


# A run costs a second, nearly all of it in Great Expectations: faults that do not hide one another share one.
TOGETHER = [
    ["a piece twice", "a program that is none", "a pitch that is none", "a silent note"],
    ["no length", "a track of no piece", "NaN"],
    ["a track less than promised", "a note of no length", "a note before the piece", "a note more than promised"],
    ["a note behind the piece"],
    ["notes of no piece"],
    ["all notes too high"],
    ["seconds taken for minutes"],
]


def test_every_fault_is_planted() -> None:
    assert sorted(name for group in TOGETHER for name in group) == sorted(FAULTS)


@pytest.mark.parametrize("names", TOGETHER, ids=", ".join)
def test_planted_faults_are_named_and_kept_in_the_history(tmp_path: Path, names: list[str]) -> None:
    write_notes(tmp_path / "notes")
    for name in names:
        table, change, _ = FAULTS[name]
        edit(tmp_path / "notes", table, change)
    with pytest.raises(InvalidData, match="notes failed validation.*collect_midi.sources") as caught:
        check(tmp_path)
    failures = [str(failure) for failure in caught.value.failures]
    for name in names:
        assert any(re.search(FAULTS[name][2], failure) for failure in failures), (name, failures)
    page = (tmp_path / "index.html").read_text()
    assert caught.value.page == tmp_path / "index.html"
    assert "<strong>Failed</strong>" in page and caught.value.failures[0].detail in page
    (row,) = read_history(tmp_path / "history.csv")
    assert int(row["failed"]) == len(failures) > 0
    assert failures[0] in row["failures"]


def test_the_history_grows_and_shows_other_data(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes")
    check(tmp_path)
    edit(tmp_path / "notes", "notes", first("velocity", 0))
    with pytest.raises(InvalidData):
        check(tmp_path)
    newest, oldest = read_history(tmp_path / "history.csv")
    assert (newest["failed"], oldest["failed"]) == ("1", "0")
    assert newest["digest"] != oldest["digest"]
    assert (tmp_path / "index.html").read_text().count("<td>notes</td>") == 2


@pytest.mark.parametrize("text", ["time,data\n1,2\n", ",".join(COLUMNS) + "\n1,2\n"], ids=["columns", "cells"])
def test_a_history_that_is_none_is_said_and_not_overwritten(tmp_path: Path, text: str) -> None:
    write_notes(tmp_path / "notes")
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(TimbreflowError, match="is no history of validations; move it away"):
        check(tmp_path)
    assert (tmp_path / "history.csv").read_text() == text


def test_a_history_is_plain_csv(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes")
    check(tmp_path)
    with open(tmp_path / "history.csv", newline="") as file:
        assert tuple(next(csv.reader(file))) == COLUMNS


def test_what_is_no_table_is_one_sentence(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes")
    table_file(tmp_path / "notes", "notes", 0).write_bytes(b"PAR1")
    with pytest.raises(TimbreflowError, match="cannot be read as a table of notes"):
        check(tmp_path)


def test_a_file_of_notes_that_is_missing_is_named(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes")
    missing = table_file(tmp_path / "notes", "notes", 0)
    missing.unlink()
    with pytest.raises(TimbreflowError, match=rf"{re.escape(str(missing))} cannot be read .*collect them again"):
        check(tmp_path)
