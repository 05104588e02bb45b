"""Drift is seen, what is drawn from the training raises nothing, and few records say nothing."""

import dataclasses
from pathlib import Path

import pytest

from tests.monitoring.served import CONFIG, reference, serve
from timbreflow.errors import TimbreflowError
from timbreflow.monitoring.config import LimitConfig
from timbreflow.monitoring.drift import Report, examine
from timbreflow.monitoring.record_table import read_records


def report(folder: Path) -> Report:
    return examine(read_records(folder, days=1), reference(), CONFIG)


def test_what_is_drawn_from_the_training_raises_nothing(tmp_path: Path) -> None:
    for seed in range(10):
        serve(tmp_path / str(seed), seed=10 * seed + 1)
        found = report(tmp_path / str(seed))
        assert found.alerts == ()
        assert {check.state for check in found.checks} == {"ok"}
        assert "nothing unlike the training" in found.summary


@pytest.mark.parametrize(
    ("role", "figure", "value"),
    [
        ("style", "band_hz", 7900.0),
        ("content", "flatness_db", -5.0),
        ("style", "pitched_share", 0.1),
        ("content", "polyphony", 6.0),
        ("style", "silent_share", 0.8),
        ("style", "rank", 0.01),
    ],
)
def test_a_drift_is_raised_where_it_is_and_nowhere_else(role: str, figure: str, value: float, tmp_path: Path) -> None:
    serve(tmp_path, **{role: {figure: value}})
    drifts = [check for check in report(tmp_path).alerts if check.kind == "drift"]
    assert [(check.role, check.figure) for check in drifts] == [(role, figure)]
    assert drifts[0].value >= CONFIG.distance
    assert f"{role}: " in report(tmp_path).summary


@pytest.mark.parametrize(
    "figures", [{"rank": 0.99}, {"polyphony": 1.0}, {"silent_share": 0.0}, {"pitched_share": 1.0}], ids=str
)
def test_what_lies_well_inside_of_the_training_is_no_drift(figures: dict[str, float], tmp_path: Path) -> None:
    serve(tmp_path, style=figures)
    assert report(tmp_path).alerts == ()


def test_a_large_distance_of_few_records_is_chance(tmp_path: Path) -> None:
    serve(tmp_path, n=30)
    bold = dataclasses.replace(CONFIG, distance=0.05)
    found = examine(read_records(tmp_path, days=1), reference(), bold)
    assert any(check.value >= 0.05 for check in found.checks if check.kind == "drift")
    assert found.alerts == ()


@pytest.mark.parametrize(
    ("role", "figure", "name"),
    [
        ("style", {"seconds": 0.7}, "style: length"),
        ("output", {"level_dbfs": -80.0}, "output: level"),
        ("output", {"level_dbfs": None}, "output: level"),
        ("output", {"polyphony": 0.2}, "output: notes kept"),
    ],
)
def test_limits(role: str, figure: dict[str, float], name: str, tmp_path: Path) -> None:
    serve(tmp_path, **{role: figure})
    assert [check.label for check in report(tmp_path).alerts] == [name]


def test_a_limit_allows_its_share(tmp_path: Path) -> None:
    serve(tmp_path, n=50)
    serve(tmp_path, n=10, style={"seconds": 0.7})
    (check,) = [check for check in report(tmp_path).checks if check.label == "style: length"]
    assert (check.state, check.value) == ("ok", pytest.approx(10 / 60))


def test_few_records_say_nothing(tmp_path: Path) -> None:
    serve(tmp_path, n=20, style={"band_hz": 7900.0, "seconds": 0.1})
    found = report(tmp_path)
    assert found.alerts == ()
    assert not found.enough
    assert "20 transfers in 1 days are too few to say anything; it takes 30." in found.summary


def test_records_of_no_flow_leave_the_likelihood_out(tmp_path: Path) -> None:
    serve(tmp_path)
    table = read_records(tmp_path, days=1)
    found = examine(
        dataclasses.replace(table, table=table.table.drop(columns=["content.rank", "style.rank"])), reference(), CONFIG
    )
    assert [check.label for check in found.checks if check.state == "too few"] == [
        "content: likelihood",
        "style: likelihood",
    ]
    assert found.alerts == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"distance": 30.0}, "monitor.distance is 30; set it within 0..1"),
        ({"p_value": 2.0}, "monitor.p_value is 2; set it within 0..1"),
        ({"limits": {"style": {"notes_kept": LimitConfig(0.5, 0.1)}}}, "limits.style.notes_kept is no limit"),
        ({"min_records": 0}, "monitor.min_records is 0"),
    ],
)
def test_settings_that_mean_nothing(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(TimbreflowError, match=sentence):
        dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
