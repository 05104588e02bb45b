from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.stored import (
    COLUMNS,
    StoredRow,
    read_stored,
    stored_path,
    with_stored,
    write_stored,
)


def scores(n: int = 30, *, shift: float = 0.0) -> StoredRow:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"triple_id": [f"test-{i:07d}" for i in range(n)]})
    for column in COLUMNS[1:]:
        table[column] = rng.random(n) * 10
    table["lsd"] += shift
    return StoredRow("musaicing", "test", "a" * 64, "b" * 64, table)


def test_a_file_gives_back_what_was_written_to_six_digits(tmp_path: Path) -> None:
    path = stored_path(tmp_path, "musaicing", "test")
    assert path == tmp_path / "musaicing" / "test.csv"
    written = scores()
    write_stored(path, written)
    read = read_stored(path, test_digest="a" * 64, metric_digest="b" * 64)
    pd.testing.assert_frame_equal(read.table, written.table, atol=5e-7, rtol=0)
    assert (read.system, read.set) == ("musaicing", "test")
    first_row = path.read_text().splitlines()[5].split(",")
    assert all(len(figure.partition(".")[2]) == 6 for figure in first_row[1:])


def test_the_order_of_rows_does_not_change_the_file(tmp_path: Path) -> None:
    first = scores()
    write_stored(tmp_path / "a.csv", first)
    write_stored(tmp_path / "b.csv", replace(first, table=first.table.iloc[::-1]))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_figures_of_other_clips_are_not_mixed(tmp_path: Path) -> None:
    write_stored(tmp_path / "test.csv", scores())
    with pytest.raises(TimbreflowError, match="test_digest aaaaaaaaaaaa"):
        read_stored(tmp_path / "test.csv", test_digest="c" * 64)


def test_broken_files_are_named_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    with pytest.raises(TimbreflowError, match="is missing"):
        read_stored(path)
    write_stored(path, scores())
    whole = path.read_text()
    for broken in (
        "",
        "nonsense",
        whole.replace("# set: test\n", ""),
        whole.replace(",lsd,", ",lds,"),
        whole.replace("test-0000001", "test-0000000"),
        whole[: len(whole) // 2],
    ):
        path.write_text(broken)
        with pytest.raises(TimbreflowError):
            read_stored(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TimbreflowError, match="restore it from git"):
        read_stored(path)


def test_a_figure_that_is_no_number_is_refused() -> None:
    table = scores().table.astype({"lsd": float})
    table.loc[3, "lsd"] = np.nan
    with pytest.raises(TimbreflowError, match="no number"):
        replace(scores(), table=table)


def test_a_row_that_is_older_than_a_metric_is_read_and_joined_without_it(tmp_path: Path) -> None:
    old = replace(scores(), table=scores().table.drop(columns="stft"))
    write_stored(tmp_path / "test.csv", old)
    assert "stft" not in (tmp_path / "test.csv").read_text()
    read = read_stored(tmp_path / "test.csv")
    content = scores(20).table.assign(system="content_copied", set="test", description="")
    rows = with_stored(content, {"musaicing": read})
    musaicing = rows[rows["system"] == "musaicing"]
    assert len(musaicing) == 20
    assert musaicing["stft"].isna().all() and musaicing["lsd"].notna().all()
    # The ceilings are those of today's transcriber.
    assert (musaicing["onset_f1_content"].to_numpy() == content["onset_f1_content"].to_numpy()).all()
    fewer = {"musaicing": replace(read, table=read.table.iloc[:5])}
    with pytest.raises(TimbreflowError, match="other clips"):
        with_stored(content, fewer)


def test_the_rows_in_git_are_read_and_written_byte_for_byte(tmp_path: Path) -> None:
    files = sorted(Path("released/baselines").glob("*/*.csv"))
    assert len(files) == 12
    for path in files:
        write_stored(tmp_path / "again.csv", read_stored(path))
        assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()
