from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.config import CriterionConfig, GateConfig
from timbreflow.evaluation.gate import Measured, decide, limits, measured

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
    for system, change in (("vqvae", {}), ("glow", {"weights": {}}), ("glow", {"test_digest": None})):
        with pytest.raises(TimbreflowError, match="dvc repro evaluate"):
            measured(metrics | change, table, system)
