"""An evaluation comes back from its files as it was."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.evaluate import Evaluation, Example, Timing
from timbreflow.evaluation.storage import read_evaluation, read_table, write_evaluation


@pytest.fixture
def evaluation() -> Evaluation:
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"set": "test", "triple_id": ["a", "b"], "system": "glow", "lsd": draw.random(2)})
    table["embedding"] = list(draw.standard_normal((2, 4)).astype(np.float32))
    loud = (3 * np.sin(np.arange(1600) / 5)).astype(np.float32)
    sounds = {"content": 0.1 * loud, "style": 0.1 * loud, "target": 0.1 * loud, "glow": loud}
    return Evaluation(table, {"glow": Timing(2.5, 7)}, [Example("test", "a", "glow", 16_000, sounds)])


def test_a_round_trip_keeps_figures_exactly_and_sounds_to_16_bits(tmp_path: Path, evaluation: Evaluation) -> None:
    write_evaluation(tmp_path, evaluation)
    again = read_evaluation(tmp_path)
    pd.testing.assert_frame_equal(again.table, evaluation.table, check_exact=True, check_dtype=False)
    assert again.table["embedding"][0].dtype == np.float32
    assert again.timing == evaluation.timing
    (example,) = again.examples
    assert (example.set, example.triple_id, example.worst_of, example.sample_rate) == ("test", "a", "glow", 16_000)
    np.testing.assert_allclose(example.sounds["content"], evaluation.examples[0].sounds["content"], atol=1e-4)
    # Beyond full scale a sound is scaled down: clipped, it would not sound as the model made it.
    np.testing.assert_allclose(example.sounds["glow"], 0.33 * evaluation.examples[0].sounds["glow"], atol=1e-3)


def test_a_missing_or_broken_table_is_named(tmp_path: Path, evaluation: Evaluation) -> None:
    with pytest.raises(TimbreflowError, match=r"per_clip\.parquet is missing"):
        read_table(tmp_path)
    write_evaluation(tmp_path, evaluation)
    (tmp_path / "per_clip.parquet").write_bytes(b"PAR1garbage")
    with pytest.raises(TimbreflowError, match=r"per_clip\.parquet is no table"):
        read_table(tmp_path)
