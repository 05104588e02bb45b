import importlib.util
import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


def test_metrics_give_the_golden_figures() -> None:
    spec = importlib.util.spec_from_file_location("make_goldens", GOLDEN / "make_goldens.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    expected = json.loads((GOLDEN / "golden.json").read_text())
    # Libraries may differ in the last bits; 0.2 % is far below any difference that a table shows.
    assert module.figures() == pytest.approx(expected, rel=2e-3, abs=1e-4)
