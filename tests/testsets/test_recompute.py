"""Whether a row that was computed again is the stored one."""

from dataclasses import replace

import pandas as pd
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.stored import StoredRow
from timbreflow.testsets.recompute import compare


def row(n: int = 30, *, shift: float = 0.0) -> StoredRow:
    table = pd.DataFrame(
        {"triple_id": [f"test-{i:07d}" for i in range(n)], "lsd": [10.0 + i + shift for i in range(n)]}
    )
    return StoredRow("musaicing", "test", "a" * 64, "b" * 64, table)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, True), (0.04, True), (-0.06, False), (0.06, False)])
def test_rows_agree_within_the_tolerance_in_lsd(shift: float, expected: bool) -> None:
    found = compare(row(shift=shift), row(), 20)
    assert found.reproduced is expected
    assert found.clips == 20
    assert found.recomputed - found.stored == pytest.approx(shift)
    assert found.largest == pytest.approx(abs(shift))


def test_the_first_clips_are_paired_by_id_whatever_their_order() -> None:
    first = row().table.iloc[:20].sample(frac=1, random_state=1)
    assert compare(replace(row(), table=first), row(), 20).largest == 0.0
    with pytest.raises(TimbreflowError, match="test-0000020 was not recomputed"):
        compare(replace(row(), table=first), row(), 21)


def test_figures_of_other_metrics_are_not_compared() -> None:
    with pytest.raises(TimbreflowError, match="metric_digest"):
        compare(replace(row(), metric_digest="c"), row(), 20)
