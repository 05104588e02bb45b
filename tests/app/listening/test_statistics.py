"""Figures against textbook values and against panels whose truth is known."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.app.listening.conftest import SYSTEMS, small_study
from timbreflow.app.listening import statistics
from timbreflow.app.listening.answers import Answers
from timbreflow.app.listening.results import write_results
from timbreflow.app.listening.simulate import panel, simulate
from timbreflow.app.listening.study import Study
from timbreflow.errors import TimbreflowError


@pytest.fixture(scope="module")
def pair() -> Study:
    """Two systems, 12 trials under two questions."""
    study = small_study(trials=12, per_listener=12, kinds=("ab",))
    trials = [
        dataclasses.replace(trial, clips={name: f"clips/t0-{name}.wav" for name in ("vqvae", "glow")})
        for trial in study.trials
    ]
    return dataclasses.replace(study, systems={"vqvae": "VQ-VAE", "glow": "Glow"}, trials=trials, headphones=[])


def votes(study: Study, wins: int, n: int) -> pd.DataFrame:
    """n answers to the notes of the first pair, one a listener."""
    trial = next(trial for trial in study.trials if trial.question == "notes")
    first, second = trial.clips
    return pd.DataFrame(
        {
            "listener": range(n), "trial": trial.id, "role": "ab", "question": "notes", "hidden": "",
            "slots": [[first, second]] * n, "answer": [first] * wins + [second] * (n - wins), "saved": range(n),
        }
    )  # fmt: skip


def test_exact_interval_and_p_value_are_those_of_the_textbook(pair: Study) -> None:
    row = statistics.win_rates(votes(pair, 15, 20), pair)[0]
    # Clopper and Pearson for 15 of 20, and the sign test: R's binom.test(15, 20).
    assert (row.rate.low, row.rate.high) == pytest.approx((0.5089541, 0.9134285), abs=1e-6)
    assert row.p == pytest.approx(0.04138947, abs=1e-7)
    # The other question was planned too, so Holm counts it.
    assert row.p_holm == pytest.approx(2 * row.p)


def test_holm() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


def test_anytime_p_values_survive_a_look_after_every_answer() -> None:
    fair = np.random.default_rng(0).integers(2, size=(1000, 300))
    ever = np.mean([statistics.anytime_p_values(won)[-1] < 0.05 for won in fair])
    assert ever <= 0.05
    # The fixed-size test does not: that is why there are two.
    assert statistics.anytime_p_values(np.ones(10))[-1] == pytest.approx(11 / 2**10)


def test_strengths_are_found_again(pair: Study) -> None:
    study = small_study(trials=60, per_listener=60, kinds=("ab",))
    table = panel(study, 30, preference=0.75, seed=1)
    found = statistics.strengths(table, list(study.systems), "notes", samples=30)
    assert list(found) == SYSTEMS and sum(value.value for value in found.values()) == pytest.approx(0, abs=1e-6)
    assert found["vqvae"].value > found["glow"].value > found["oracle"].value
    assert all(value.low < value.value < value.high for value in found.values())
    # Two systems: the difference is the logit of the win rate.
    two = statistics.strengths(votes(pair, 15, 20), list(pair.systems), "notes", samples=2)
    assert two["vqvae"].value - two["glow"].value == pytest.approx(np.log(3), abs=0.02)
    always = statistics.strengths(votes(pair, 9, 9), list(pair.systems), "notes", samples=2)
    assert all(np.isfinite(value.value) for value in always.values())


def test_agreement_counts_pairs_of_listeners(pair: Study) -> None:
    assert statistics.agreement(votes(pair, 4, 4), "notes") == 1.0
    assert statistics.agreement(votes(pair, 2, 4), "notes") == pytest.approx(1 / 3)
    assert np.isnan(statistics.agreement(votes(pair, 1, 1), "notes"))


def test_power_is_that_of_the_exact_test() -> None:
    # It rejects at 15 of 20 or more and at 5 or less: R's 1 - pbinom(14, 20, .65) + pbinom(5, 20, .65).
    assert statistics.power(20, 1) == pytest.approx(0.2457063, abs=1e-6)
    n = statistics.answers_needed(1)
    assert 85 <= n <= 100 and statistics.power(n, 1) >= 0.8 > statistics.power(n - 1, 1)
    assert statistics.answers_needed(10) > n


def test_careless_listeners_are_found_and_others_are_not() -> None:
    study = small_study()
    study = dataclasses.replace(study, catches=[*study.catches, dataclasses.replace(study.catches[0], id="catch-3")])
    careful = statistics.listeners(panel(study, 20, preference=0.65, seed=2), study)
    careless = statistics.listeners(panel(study, 100, preference=0.65, seed=3, careless=1.0), study)
    assert careful["counts"].all() and (careful["headphones_right"] == 6).all()
    assert careless["counts"].mean() < 0.25  # 11 % by chance
    table = panel(study, 1, preference=0.65, seed=4)
    assert not statistics.listeners(table[table["position"] < 15], study)["counts"].any()


def test_ratings_find_reference_and_anchor() -> None:
    table = panel(small_study(), 10, preference=0.65, seed=5)
    found = statistics.ratings(table, SYSTEMS)
    assert [*found] == ["reference", *SYSTEMS, "anchor35"]
    assert found["reference"].value > 90 > found["vqvae"].value > found["anchor35"].value


def test_stopping_waits_for_all_comparisons_or_the_planned_listeners(pair: Study) -> None:
    def rule(listeners: int, preference: float) -> statistics.Stopping:
        table = panel(pair, listeners, preference=preference, seed=6)
        return statistics.stopping(statistics.win_rates(table, pair, samples=1), pair, listeners)

    assert not rule(3, 0.5).stop and not rule(10, 0.5).stop
    assert rule(20, 0.5).sentence.startswith("Stop: the planned 20 listeners")
    assert rule(10, 0.95).sentence == "Stop: all 2 comparisons are decided."


def test_intervals_cover_a_true_preference_and_none_gives_few_false_alarms(pair: Study) -> None:
    rates = [
        row
        for seed in range(250)
        for row in statistics.win_rates(panel(pair, 10, preference=0.65, seed=seed), pair, samples=1)
    ]
    covered = np.mean([row.rate.low <= 0.65 <= row.rate.high for row in rates])
    assert len(rates) == 500 and 0.92 <= covered <= 0.99
    alarms = np.mean(
        [
            any(
                row.p_holm < 0.05
                for row in statistics.win_rates(panel(pair, 10, preference=0.5, seed=s), pair, samples=1)
            )
            for s in range(250)
        ]
    )
    assert alarms <= 0.08


def test_results_of_people_and_of_simulated_listeners_never_mix(folder: Path, study: Study) -> None:
    simulate(folder, 4, preference=0.8)
    with pytest.raises(TimbreflowError, match="holds no answer of any person; there are .* of simulated listeners"):
        write_results(folder)
    said = write_results(folder, simulated=True).splitlines()
    assert said[0] == "SIMULATED LISTENERS: no person gave these answers."
    assert all(line.startswith("simulated: ") for line in said if line.split(": ")[-1].startswith("For "))
    assert sum(line.startswith("simulated: For ") for line in said) == 6
    page = (folder / "results-simulated" / "index.html").read_text()
    assert "no person gave these answers" in page and "Sentences for a paper" not in page
    for path in (folder / "results-simulated").glob("*.csv"):
        rows = pd.read_csv(path)
        assert rows["simulated"].all(), path

    answers = Answers(folder, study)
    name, secret = answers.begin()
    for step in answers.steps(name, secret):
        right = step.slots.index(step.trial.right) if step.trial.right else 0
        answers.save(name, secret, step.position, [95] * len(step.slots) if step.trial.kind == "mushra" else right)
    answers.close()
    said = write_results(folder)
    assert "1 of 1 listeners count." in said and "SIMULATED" not in said
    page = (folder / "results" / "index.html").read_text()
    assert "no person gave" not in page and "Sentences for a paper" in page
    assert "http://" not in page.replace("http://www.w3.org/", "") and "https://" not in page and "src=" not in page
    people = pd.read_csv(folder / "results" / "answers.csv")
    assert set(people["listener"]) == {5} and not people["simulated"].any()


def test_results_without_answers_say_so(folder: Path) -> None:
    with pytest.raises(TimbreflowError, match=r"answers\.sqlite is missing, so nobody has answered"):
        write_results(folder)
