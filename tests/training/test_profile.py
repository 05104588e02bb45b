"""The stopwatch tells waiting from working."""

import time

import pytest
import torch

from timbreflow.training.profile import VARIABLE, Stopwatch


def test_the_wait_for_data_is_a_share_of_all_time() -> None:
    watch = Stopwatch(torch.device("cpu"))
    with watch("data"):
        time.sleep(0.05)
    with watch("forward_backward"):
        time.sleep(0.05)
    assert watch.seconds["data"] >= 0.05 and watch.seconds["forward_backward"] >= 0.05
    assert 0 < watch.data_wait < 1
    report = watch.report(steps=2)
    assert report.startswith("profile of 2 steps in 0.") and "waiting for data 0.0" in report


@pytest.mark.parametrize(("value", "wanted"), [("", False), ("0", False), ("1", True)])
def test_the_environment_asks_for_it(value: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert Stopwatch(torch.device("cpu")).wanted is wanted
