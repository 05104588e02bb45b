from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import Measured, decide, limits, measured, require_weights
from timbreflow.evaluation.gate_config import CriterionConfig, GateConfig
from timbreflow.metrics.statistics import bootstrap

GATE = GateConfig(
    set="test",
    min_triples=40,
    criteria={
        "lsd": CriterionConfig(better="lower", slack=0.02, limit=20.0),
        "timbre": CriterionConfig(better="lower", slack=0.02, limit=0.3),
        "onset_f1": CriterionConfig(better="higher", slack=0.05, limit=0.2),
    },
)
BASE = {"lsd": 14.0, "timbre": 0.2, "onset_f1": 0.4}


def clips(figures: Mapping[str, float], *, noise: float = 0.0, seed: int = 0, n: int = 48) -> Measured:
    """Clips whose spread is that of real ones, shared by all, with noise of their own of a share of the mean."""
    shared, own = np.random.default_rng(99), np.random.default_rng(seed)
    columns = {}
    for name, value in figures.items():
        spread = 1 + 0.3 * shared.uniform(-1, 1, n)
        change = own.normal(0, noise, n)
        columns[name] = value * spread / spread.mean() + value * (change - change.mean())
    ids = [f"test-{number:04d}" for number in range(n)]
    return Measured(
        "glow", {"weights_sha256": "w"}, "m", "t", pd.DataFrame({"set": "test", "triple_id": ids, **columns})
    )


def scaled(better: float) -> dict[str, float]:
    return {name: value * (1 + better if name == "onset_f1" else 1 - better) for name, value in BASE.items()}


def test_the_champions_own_figures_are_a_tie_and_refused() -> None:
    decision = decide(clips(BASE), GATE, opponent=clips(BASE))
    assert [check.metric for check in decision.failed] == ["better"]
    assert "a tie keeps" in decision.failed[0].criterion


def test_a_better_one_passes_and_a_worse_one_fails_what_it_is_worse_on() -> None:
    champion = clips(BASE)
    assert decide(clips(scaled(0.1), noise=0.05), GATE, opponent=champion).passed
    worse = decide(clips(scaled(0.1) | {"timbre": 0.22}, noise=0.05), GATE, opponent=champion, name="champion")
    (failed,) = worse.failed
    assert (failed.metric, failed.opponent) == ("timbre", pytest.approx(0.2))
    assert failed.criterion == "timbre at most 2 % worse than the champion's"
    assert failed.difference is not None and failed.difference.low > 0


def test_what_the_clips_do_not_show_does_not_pass() -> None:
    """The means are within the slack, and better on one: the interval is not."""
    figures = scaled(0.1) | {"timbre": 0.2}
    assert decide(clips(figures), GATE, opponent=clips(BASE)).passed
    decision = decide(clips(figures, noise=0.2), GATE, opponent=clips(BASE))
    assert "timbre" in {check.metric for check in decision.failed}


def test_intervals_are_paired() -> None:
    """Clips differ by 30 % among themselves: only pairs show a difference of 4 %."""
    decision = decide(clips(scaled(0.04)), GATE, opponent=clips(BASE))
    assert decision.passed
    own = clips(scaled(0.04)).figures("test")["lsd"]
    assert own.high > BASE["lsd"]


def test_slack_forgives_and_negative_slack_demands() -> None:
    figures = scaled(0.1) | {"timbre": 0.203}
    assert decide(clips(figures), GATE, opponent=clips(BASE)).passed
    demanding = replace(GATE, criteria=GATE.criteria | {"timbre": CriterionConfig("lower", -0.15, 0.3)})
    decision = decide(clips(scaled(0.1)), demanding, opponent=clips(BASE))
    assert [check.criterion for check in decision.failed] == ["timbre at least 15 % better than the opponent's"]


def test_limits_hold_also_against_an_opponent() -> None:
    bad = {"lsd": 30.0, "timbre": 0.2, "onset_f1": 0.4}
    decision = decide(clips(bad | {"lsd": 25.0}), GATE, opponent=clips(bad))
    assert [check.criterion for check in decision.failed] == ["lsd <= 20 (absolute limit)"]
    assert decide(clips({"lsd": 19.9, "timbre": 0.299, "onset_f1": 0.201}), GATE).passed
    assert [check.metric for check in limits(clips(bad), GATE) if not check.passed] == ["lsd"]


def test_twenty_small_losses_cannot_add_up() -> None:
    """Each challenger trades 1.5 % of LSD and timbre, inside the slack, for a better onset F1."""
    released, champion, figures = clips(BASE), clips(BASE), dict(BASE)
    promoted = 0
    for _ in range(20):
        figures = {
            "lsd": figures["lsd"] * 1.015,
            "timbre": figures["timbre"] * 1.015,
            "onset_f1": figures["onset_f1"] * 1.01,
        }
        challenger = clips(figures)
        if decide(challenger, GATE, opponent=champion, floor=released).passed:
            champion, promoted = challenger, promoted + 1
        else:
            figures = {name: check.value for name, check in champion.figures("test").items() if name in BASE}
    assert promoted == 1
    assert champion.figures("test")["lsd"].value <= 1.02 * BASE["lsd"]
    # Without the floor they would drift to the absolute limit.
    assert decide(clips(scaled(-0.015) | {"onset_f1": 0.41}), GATE, opponent=clips(BASE)).passed


def test_fewer_clips_than_asked_are_refused_and_few_are_said() -> None:
    decision = decide(clips(scaled(0.1), n=30), GATE, opponent=clips(BASE, n=30))
    assert [check.criterion for check in decision.failed] == ["at least 40 clips of test"]
    assert "30 clips of test do not tell differences below about" in decision.warning
    assert "% of lsd" in decision.warning
    assert decide(clips(scaled(0.1), n=200), GATE, opponent=clips(BASE, n=200)).warning == ""


def test_other_clips_or_code_are_not_compared() -> None:
    for other in (clips(BASE, n=49), replace(clips(BASE), metric_digest="n"), replace(clips(BASE), test_digest="u")):
        with pytest.raises(TimbreflowError, match="same clips by the same code"):
            decide(clips(BASE), GATE, opponent=other)


def test_figures_that_are_missing_or_not_finite_never_pass() -> None:
    broken = clips(BASE)
    broken.clips.loc[0, "lsd"] = np.nan
    with pytest.raises(TimbreflowError, match="NaN"):
        decide(broken, GATE, opponent=clips(BASE))
    with pytest.raises(TimbreflowError, match="lsd is not measured.*dvc repro evaluate"):
        decide(clips({"timbre": 0.1, "onset_f1": 0.5}), GATE)
    with pytest.raises(TimbreflowError, match="was not evaluated on the set test_seen"):
        decide(clips(BASE), replace(GATE, set="test_seen"))


def test_a_gate_without_criteria_or_of_figures_that_have_no_clips_is_refused() -> None:
    with pytest.raises(TimbreflowError, match="criteria"):
        GateConfig("test", 1, {})
    with pytest.raises(TimbreflowError, match="frechet is not measured clip by clip"):
        GateConfig("test", 1, {"frechet": CriterionConfig("lower", 0.0, 1.0)})


def test_the_part_of_an_evaluation_that_is_missing_says_what_to_run() -> None:
    table = clips(BASE).clips.assign(system="glow", description="x")
    metrics = {"metric_digest": "m", "test_digest": "t", "weights": {"glow": {"weights_sha256": "w"}}}
    found = measured(metrics, table, "glow")
    assert found.digests == {"metric_digest": "m", "test_digest": "t"}
    assert list(found.clips) == ["set", "triple_id", "lsd", "timbre", "onset_f1"]
    assert (found.system, found.weights) == ("glow", {"weights_sha256": "w"})
    two = pd.concat([table.assign(system="vqvae", lsd=0.0), table])
    pd.testing.assert_frame_equal(measured(metrics, two, "glow").clips, found.clips)
    for system, change, says in (
        ("vqvae", {"weights": {"vqvae": {}}}, "no clips of vqvae"),
        ("glow", {"weights": {}}, "no clips of glow"),
        ("glow", {"weights": None}, "no clips of glow"),
        ("glow", {"test_digest": None}, "lacks test_digest;"),
        ("glow", {"test_digest": "", "metric_digest": ""}, "lacks metric_digest, test_digest;"),
    ):
        given = {key: value for key, value in (metrics | change).items() if value is not None}
        with pytest.raises(TimbreflowError, match=f"{says}.*dvc repro evaluate"):
            measured(given, table, system)


def test_every_check_says_what_was_held_against_what() -> None:
    decision = decide(clips(scaled(0.1)), GATE, opponent=clips(BASE), floor=clips(scaled(-0.5)), name="champion")
    assert [(check.criterion, check.metric) for check in decision.checks] == [
        ("at least 40 clips of test", "clips"),
        ("lsd <= 20 (absolute limit)", "lsd"),
        ("onset_f1 >= 0.2 (absolute limit)", "onset_f1"),
        ("timbre <= 0.3 (absolute limit)", "timbre"),
        ("lsd at most 2 % worse than the champion's", "lsd"),
        ("onset_f1 at most 5 % worse than the champion's", "onset_f1"),
        ("timbre at most 2 % worse than the champion's", "timbre"),
        ("certainly better on at least one criterion (a tie keeps what is there)", "better"),
        ("lsd at most 2 % worse than the released model's", "lsd"),
        ("onset_f1 at most 5 % worse than the released model's", "onset_f1"),
        ("timbre at most 2 % worse than the released model's", "timbre"),
    ]
    assert (decision.checks[0].challenger, decision.checks[7].challenger) == (48, 3)
    own = decision.checks[4]
    assert (own.challenger, own.opponent) == (pytest.approx(12.6), pytest.approx(14.0))
    assert own.difference is not None and own.difference.value == pytest.approx(-1.4)
    assert decision.checks[8].opponent == pytest.approx(21.0)
    assert decision.passed and decision.failed == ()


def test_the_table_of_a_decision_gives_figures_and_bounds() -> None:
    gate = replace(GATE, min_triples=49, criteria={"lsd": CriterionConfig("lower", 0.02, 20.0)})
    constant = replace(clips(BASE), clips=clips(BASE).clips.assign(lsd=14.0))
    rows = decide(replace(constant, clips=constant.clips.assign(lsd=12.5)), gate, opponent=constant).rows()
    assert rows == [
        ("criterion", "challenger", "opponent", "difference", ""),
        ("at least 49 clips of test", "48", "-", "-", "FAILED"),
        ("lsd <= 20 (absolute limit)", "12.5", "-", "-", "passed"),
        ("lsd at most 2 % worse than the opponent's", "12.5", "14", "-1.5 (-1.5 to -1.5)", "passed"),
        ("certainly better on at least one criterion (a tie keeps what is there)", "1", "-", "-", "passed"),
    ]


def constant(**figures: float) -> Measured:
    """40 clips that all have the same figures: no interval has a width."""
    return replace(clips(BASE, n=40), clips=clips(BASE, n=40).clips.assign(**BASE | figures))


def test_what_is_exactly_at_a_bound_passes() -> None:
    """Slack of an eighth and limits are met with figures that floating point holds exactly."""
    gate = GateConfig(
        "test",
        40,
        {"lsd": CriterionConfig("lower", 0.125, 18.0), "onset_f1": CriterionConfig("higher", 0.125, 0.4375)},
    )
    champion = constant(lsd=16.0, onset_f1=0.5)
    at_bound = decide(constant(lsd=18.0, onset_f1=0.4375), gate, opponent=champion)
    assert [check.metric for check in at_bound.failed] == ["better"]
    beyond = decide(constant(lsd=18.01, onset_f1=0.4374), gate, opponent=champion)
    assert [check.metric for check in beyond.failed] == ["lsd", "onset_f1", "lsd", "onset_f1", "better"]
    assert decide(constant(lsd=15.99, onset_f1=0.4375), gate, opponent=champion).passed
    assert decide(constant(lsd=18.0, onset_f1=0.5001), gate, opponent=champion).passed


def test_a_slack_is_a_share_of_the_size_also_below_zero() -> None:
    gate = GateConfig("test", 40, {"lsd": CriterionConfig("lower", 0.25, 20.0)})
    champion = constant(lsd=-8.0)
    assert [check.metric for check in decide(constant(lsd=-6.5), gate, opponent=champion).failed] == ["better"]
    assert [check.metric for check in decide(constant(lsd=-5.5), gate, opponent=champion).failed] == ["lsd", "better"]


def test_the_warning_gives_half_the_width_of_the_interval() -> None:
    challenger, champion = clips(scaled(0.1), noise=0.05), clips(BASE)
    decision = decide(challenger, GATE, opponent=champion)
    lsd = decision.checks[4]
    assert lsd.difference is not None
    half = 100 * (lsd.difference.high - lsd.difference.low) / 2 / 14.0
    assert 1 < half < 3  # 5 % of noise in 48 clips
    assert f"48 clips of test do not tell differences below about {half:.2g} % of lsd, " in decision.warning
    assert "% of timbre from chance; 200 or more (render_triples.triples) make promotion" in decision.warning
    assert decide(clips(scaled(0.1), n=199), GATE, opponent=clips(BASE, n=199)).warning
    assert decide(clips(scaled(0.1), n=30), GATE).warning == ""


def test_clips_are_paired_by_their_ids_not_by_their_order() -> None:
    challenger, champion = clips(scaled(0.04)), clips(BASE)
    shuffled = replace(challenger, clips=challenger.clips.sample(frac=1, random_state=0))
    assert decide(shuffled, GATE, opponent=champion).checks == decide(challenger, GATE, opponent=champion).checks


def test_other_sets_do_not_decide() -> None:
    challenger, champion = clips(scaled(0.1)), clips(BASE)
    worse = clips(scaled(-0.5)).clips.assign(set="test_seen")
    both = replace(challenger, clips=pd.concat([worse, challenger.clips]))
    assert decide(both, GATE, opponent=champion).checks == decide(challenger, GATE, opponent=champion).checks
    assert list(both.sets) == ["test_seen", "test"]
    assert both.figures("test_seen")["lsd"].value == pytest.approx(21.0)


def test_figures_are_those_of_every_metric_that_was_measured() -> None:
    table = clips(BASE).clips.assign(family=[1.0, 0.0, np.nan, np.nan] * 12)
    found = replace(clips(BASE), clips=table).figures("test")
    assert list(found) == ["lsd", "timbre", "onset_f1", "family"]
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(BASE | {"family": 0.5})
    assert found["lsd"] == bootstrap([table["lsd"]], lambda mean: mean, samples=4000, seed=0)
    # What no clip has a figure for is left out.
    assert "family" not in replace(clips(BASE), clips=table.assign(family=np.nan)).figures("test")


def test_a_clip_that_one_of_two_has_no_figure_for_is_left_out_of_both() -> None:
    gate = GateConfig("test", 40, {"family": CriterionConfig("higher", 0.0, 0.1)})
    table = clips(BASE).clips
    own = replace(clips(BASE), clips=table.assign(family=[1.0, 1.0, np.nan, 0.0] * 12))
    other = replace(clips(BASE), clips=table.assign(family=[0.0, 1.0, 1.0, np.nan] * 12))
    (check,) = [each for each in decide(own, gate, opponent=other).checks if each.difference]
    assert (check.challenger, check.opponent) == (1.0, 0.5)
    with pytest.raises(TimbreflowError, match="family is not measured"):
        decide(own, gate, opponent=clips(BASE))


def test_figures_of_other_weights_are_refused() -> None:
    require_weights({"a": "1", "b": "2"}, {"b": "2", "a": "1"}, "data/models/glow")
    for found in ({}, {"a": "2"}, {"a": "1", "b": "2"}):
        with pytest.raises(TimbreflowError, match="^data/models/glow does not hold the weights.*dvc repro evaluate"):
            require_weights(found, {"a": "1"}, "data/models/glow")
