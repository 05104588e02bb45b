import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import CriterionConfig, GateConfig, comparable, decide, row

GATE = GateConfig(
    set="test",
    criteria={
        "lsd": CriterionConfig(better="lower", slack=0.02, limit=20.0),
        "timbre": CriterionConfig(better="lower", slack=-0.1, limit=0.3),
        "onset_f1": CriterionConfig(better="higher", slack=0.05, limit=0.2),
    },
)
CHAMPION = {"lsd": 14.0, "timbre": 0.2, "onset_f1": 0.4}


def test_slack_forgives_and_negative_slack_demands() -> None:
    assert decide({"lsd": 14.2, "timbre": 0.17, "onset_f1": 0.39}, CHAMPION, GATE).passed
    decision = decide({"lsd": 14.2, "timbre": 0.19, "onset_f1": 0.39}, CHAMPION, GATE)
    assert not decision.passed
    (failed,) = decision.failed
    assert (failed.metric, failed.challenger, failed.opponent) == ("timbre", 0.19, 0.2)
    assert failed.limit == pytest.approx(0.18)
    assert "timbre <= 0.18" in failed.criterion


@pytest.mark.parametrize(
    ("figures", "fails"),
    [
        ({"lsd": 14.3, "timbre": 0.1, "onset_f1": 0.5}, {"lsd"}),
        ({"lsd": 14.0, "timbre": 0.1, "onset_f1": 0.37}, {"onset_f1"}),
        ({"lsd": 99.0, "timbre": 0.9, "onset_f1": 0.0}, {"lsd", "timbre", "onset_f1"}),
    ],
)
def test_each_failed_criterion_is_named(figures: dict[str, float], fails: set[str]) -> None:
    assert {check.metric for check in decide(figures, CHAMPION, GATE).failed} == fails


def test_without_an_opponent_absolute_limits_decide() -> None:
    assert decide({"lsd": 20.0, "timbre": 0.3, "onset_f1": 0.2}, None, GATE).passed
    decision = decide({"lsd": 20.1, "timbre": 0.1, "onset_f1": 0.5}, None, GATE)
    assert [check.metric for check in decision.failed] == ["lsd"]
    assert decision.failed[0].opponent is None


def test_figures_that_are_missing_or_not_finite_never_pass() -> None:
    for figures in ({"lsd": 1.0, "timbre": 0.0}, {"lsd": float("nan"), "timbre": 0.0, "onset_f1": 1.0}):
        with pytest.raises(TimbreflowError, match="no finite figure"):
            decide(figures, CHAMPION, GATE)
    with pytest.raises(TimbreflowError, match="criteria"):
        decide(CHAMPION, None, GateConfig("test", {}))


def test_only_equal_and_present_digests_are_comparable() -> None:
    one = {"metric_digest": "a", "test_digest": "b"}
    assert comparable(one, dict(one))
    assert not comparable(one, one | {"test_digest": "c"})
    assert not comparable({}, {})


def test_a_row_that_is_missing_says_what_to_run() -> None:
    assert row({"test": {"glow": {"lsd": 1.0}}}, "glow", GATE) == {"lsd": 1.0}
    with pytest.raises(TimbreflowError, match="dvc repro evaluate"):
        row({"test": {}}, "glow", GATE)
