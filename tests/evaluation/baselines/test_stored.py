from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from timbreflow.evaluation.baselines.per_clip import (
    COLUMNS,
    ClipScores,
    agrees,
    compare,
    read_scores,
    scores_path,
    write_scores,
)

from timbreflow.errors import TimbreflowError


def scores(n: int = 30, *, shift: float = 0.0) -> ClipScores:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"triple_id": [f"test-{i:07d}" for i in range(n)]})
    for column in COLUMNS[1:]:
        table[column] = rng.random(n) * 10
    table["lsd"] += shift
    return ClipScores("musaicing", "test", "a" * 64, "b" * 64, table)


def test_a_file_gives_back_what_was_written_to_six_digits(tmp_path: Path) -> None:
    path = scores_path(tmp_path, "musaicing", "test")
    assert path == tmp_path / "released" / "baselines" / "musaicing" / "test.csv"
    written = scores()
    write_scores(path, written)
    read = read_scores(path, test_digest="a" * 64, metric_digest="b" * 64)
    pd.testing.assert_frame_equal(read.table, written.table, atol=5e-7, rtol=0)
    assert (read.system, read.set) == ("musaicing", "test")
    first_row = path.read_text().splitlines()[5].split(",")
    assert all(len(figure.partition(".")[2]) == 6 for figure in first_row[1:])


def test_the_order_of_rows_does_not_change_the_file(tmp_path: Path) -> None:
    first = scores()
    write_scores(tmp_path / "a.csv", first)
    write_scores(tmp_path / "b.csv", replace(first, table=first.table.iloc[::-1]))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(("shift", "expected"), [(0.0, True), (0.04, True), (-0.06, False), (0.06, False)])
def test_scores_agree_within_the_tolerance_in_lsd(shift: float, expected: bool) -> None:
    table = compare(scores(shift=shift), scores(), clips=20)
    assert agrees(table) is expected
    lsd = table.set_index("metric").loc["lsd"]
    assert lsd["difference"] == pytest.approx(shift)
    assert lsd["largest"] == pytest.approx(abs(shift))
    assert lsd["clips"] == 20


def test_the_first_clips_are_paired_by_id_whatever_their_order() -> None:
    stored = scores()
    first = stored.table.sort_values("triple_id").iloc[:20].sample(frac=1, random_state=1)
    table = compare(replace(stored, table=first), stored, clips=20)
    assert table["largest"].max() == 0.0
    with pytest.raises(TimbreflowError, match="test-0000020 was not recomputed"):
        compare(replace(stored, table=first), stored, clips=21)


def test_figures_of_other_systems_clips_or_metrics_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="metric_digest"):
        compare(replace(scores(), metric_digest="c"), scores())
    with pytest.raises(TimbreflowError, match="--clips is 0"):
        compare(scores(), scores(), clips=0)
    write_scores(tmp_path / "test.csv", scores())
    with pytest.raises(TimbreflowError, match="test_digest aaaaaaaaaaaa"):
        read_scores(tmp_path / "test.csv", test_digest="c" * 64)


def test_broken_files_are_named_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    with pytest.raises(TimbreflowError, match="is missing"):
        read_scores(path)
    write_scores(path, scores())
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
            read_scores(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TimbreflowError, match="restore it from git"):
        read_scores(path)


def test_a_figure_that_is_no_number_is_refused() -> None:
    table = scores().table.astype({"lsd": float})
    table.loc[3, "lsd"] = np.nan
    with pytest.raises(TimbreflowError, match="no number"):
        replace(scores(), table=table)
