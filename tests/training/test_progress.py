"""What a training says: its curves' clock, how long it takes (again when that changes by half), where its time goes."""

import time

import pytest
import torch

from timbreflow.progress_lines import format_time
from timbreflow.training.progress import MEASURED_STEPS, PROFILE_VARIABLE, Estimate, Stopwatch


def spoken_at(seconds: list[float], steps: int, first: int = 0) -> dict[int, str]:
    """Step -> what was said after it, where the k-th step took seconds[k]."""
    estimate, now, said = Estimate(first, steps, now=0.0), 0.0, {}
    for step, taken in enumerate(seconds, first + 1):
        now += taken
        if news := estimate.news(step, now=now):
            said[step] = news
    return said


def test_it_is_said_once_and_the_slow_first_step_counts_only_as_gone() -> None:
    said = spoken_at([30.0, *[2.0] * 99], 100)
    assert said == {
        MEASURED_STEPS + 1: "this training takes about 4 min in all, 188 s from here".replace("188 s", "3 min")
    }


def test_it_is_said_again_when_the_machine_becomes_busy() -> None:
    said = spoken_at([1.0] * 100 + [4.0] * 300, 400)
    first, again = sorted(said)[:2]
    assert first == MEASURED_STEPS + 1 and 100 < again < 150
    assert said[again].startswith("this training now takes about")
    assert len(said) <= 3


def test_a_change_of_less_than_half_is_not_said() -> None:
    assert len(spoken_at([1.0] * 100 + [1.4] * 300, 400)) == 1


def test_a_resumed_training_counts_from_where_it_goes_on() -> None:
    said = spoken_at([1.0] * 10, 100, first=90)
    assert said == {90 + MEASURED_STEPS + 1: "this training takes about 10 s in all, 4 s from here"}


@pytest.mark.parametrize(("seconds", "words"), [(45.2, "45 s"), (700.0, "12 min"), (9000.0, "2.5 h")])
def test_times_are_written_for_people(seconds: float, words: str) -> None:
    assert format_time(seconds) == words


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
    monkeypatch.setenv(PROFILE_VARIABLE, value)
    assert Stopwatch(torch.device("cpu")).wanted is wanted
