"""What answers say, with what is not known: pure tables in, figures out.

Conventions:
    A table is that of `Answers.table`: one row an answer. Intervals are 95 %. Two questions of two kinds are asked of
    every win rate. Is it chance? The exact binomial test, which takes answers as independent; over all comparisons of a
    study its p-values are adjusted by Holm. And would other listeners say the same? An interval from a bootstrap over
    listeners, which is wider where listeners differ from each other. The test holds for a number of listeners that was
    fixed beforehand; `p_anytime` holds however often somebody looks and whenever they stop.

References:
    Clopper and Pearson 1934, exact intervals. Holm 1979, "A simple sequentially rejective multiple test procedure".
    Bradley and Terry 1952, "Rank analysis of incomplete block designs".
    Ville 1939 and Robbins 1970, "Statistical methods related to the law of the iterated logarithm": `anytime_p_values`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import choix
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import binom, binomtest

from timbreflow.app.listening.study import ANCHOR, CATCH, CATCHES_TO_PASS, HEADPHONES, REFERENCE, Study
from timbreflow.metrics.statistics import Interval, bootstrap, mean_interval

ALPHA = 0.05
PREFERENCE = 0.65
"""The preference whose detection `power` states: about two of three."""
POWER = 0.8
PRIOR = 0.01
"""Precision of the prior on strengths: weak, but a system that always wins keeps a finite one."""


@dataclass(frozen=True)
class WinRate:
    """One pair of systems under one question.

    Args:
        question: notes, timbre, or same for abx.
        first: the system that wins count for; for abx both systems stand for "told apart".
        second: the other one.
        wins: answers for the first; for abx right answers.
        n: answers.
        listeners: who gave them.
        rate: wins / n with the exact interval.
        over_listeners: the same rate with the interval of a bootstrap over listeners.
        p: exact binomial test against one half, two-sided; for abx one-sided.
        p_holm: adjusted over the study's comparisons of this kind.
        p_anytime: valid at any number of answers.
        p_anytime_holm: adjusted in the same way.
    """

    question: str
    first: str
    second: str
    wins: int
    n: int
    listeners: int
    rate: Interval
    over_listeners: Interval
    p: float
    p_anytime: float
    p_holm: float = 1.0
    p_anytime_holm: float = 1.0


def win_rates(table: pd.DataFrame, study: Study, *, kind: str = "ab", samples: int = 1000) -> list[WinRate]:
    """Every pair that was compared, adjusted for all that the study plans to compare.

    Args:
        table: answers of the listeners that count.
        study: the order of its systems decides which of a pair is the first.
        kind: ab or abx.
        samples: draws of the bootstrap over listeners.
    """
    rows = table[table["role"] == kind].sort_values("saved")
    place = {name: index for index, name in enumerate(study.systems)}
    pairs = [tuple(sorted(slots, key=place.__getitem__)) for slots in rows["slots"]]
    rows = rows.assign(first=[first for first, _ in pairs], second=[second for _, second in pairs])
    found = []
    for (question, first, second), own in rows.groupby(["question", "first", "second"], sort=False):
        won = (own["answer"] == (own["hidden"] if kind == "abx" else first)).to_numpy().astype(int)
        test = binomtest(int(won.sum()), len(won), alternative="greater" if kind == "abx" else "two-sided")
        exact = binomtest(int(won.sum()), len(won)).proportion_ci(method="exact")
        sums = pd.DataFrame({"won": won, "n": 1}).groupby(own["listener"].to_numpy()).sum()
        over = bootstrap(
            [sums["won"].to_numpy(), sums["n"].to_numpy()], lambda wins, n: wins / n, samples=samples, seed=0
        )
        found.append(
            WinRate(
                str(question),
                str(first),
                str(second),
                int(won.sum()),
                len(won),
                len(sums),
                Interval(float(won.mean()), float(exact.low), float(exact.high)),
                over,
                float(test.pvalue),
                float(anytime_p_values(won)[-1]),
            )
        )
    open_ones = [1.0] * (len(comparisons_of(study, kind)) - len(found))
    adjusted = [holm([*p_values, *open_ones]) for p_values in ([r.p for r in found], [r.p_anytime for r in found])]
    found = [replace(row, p_holm=p, p_anytime_holm=q) for row, p, q in zip(found, *adjusted, strict=False)]
    return sorted(found, key=lambda row: (row.question, place[row.first], place[row.second]))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: those below alpha are false alarms in at most alpha of all studies (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def anytime_p_values(won: NDArray[Any]) -> NDArray[np.float64]:
    """p-values [n] after every answer of a sequence [n] of wins (1) and losses (0), against one half.

    The likelihood of the answers, averaged over all preferences from 0 to 1, divided by that under one half, is a
    martingale under one half: it passes 1 / alpha at any time with a probability of at most alpha (Ville 1939). Its
    inverse is a p-value that stays valid when somebody looks after every answer and stops when they like.
    """
    n, wins = np.arange(1, len(won) + 1), np.cumsum(won)
    log_ratio = n * np.log(2) + betaln(wins + 1, n - wins + 1)
    return np.minimum.accumulate(np.minimum(np.exp(-log_ratio), 1.0))


def strengths(table: pd.DataFrame, systems: Sequence[str], question: str, *, samples: int = 200) -> dict[str, Interval]:
    """Bradley-Terry strengths, mean 0: a system beats another with probability 1 / (1 + exp(difference)).

    Intervals are of a bootstrap over listeners. Systems that were not compared under this question have none.
    """
    rows = table[(table["role"] == "ab") & (table["question"] == question)]
    present = [name for name in systems if any(name in slots for slots in rows["slots"])]
    if len(present) < 2:
        return {}
    place = {name: index for index, name in enumerate(present)}
    games = np.array(
        [
            (place[won], place[next(name for name in slots if name != won)])
            for won, slots in zip(rows["answer"], rows["slots"], strict=True)
        ]
    )
    listeners = rows["listener"].to_numpy()
    by_listener = [games[listeners == listener] for listener in np.unique(listeners)]
    draw = np.random.default_rng(0)

    def fit(parts: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        values = choix.opt_pairwise(len(present), np.concatenate(parts).tolist(), alpha=PRIOR)
        return np.asarray(values - values.mean())

    values = fit(by_listener)
    drawn = [
        fit([by_listener[i] for i in draw.integers(len(by_listener), size=len(by_listener))]) for _ in range(samples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {name: Interval(*map(float, (values[i], low[i], high[i]))) for name, i in place.items()}


def ratings(table: pd.DataFrame, systems: Sequence[str]) -> dict[str, Interval]:
    """Mean rating of mushra trials, reference and anchor too, over the means of listeners."""
    rows = table[table["role"] == "mushra"]
    return {
        name: mean_interval(
            rows["answer"].map(lambda given, name=name: float(given[name])).groupby(rows["listener"]).mean(),
            samples=1000,
            seed=0,
        )
        for name in (REFERENCE, *systems, ANCHOR)
        if len(rows) and name in rows["answer"].iloc[0]
    }


def listeners(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row a listener: what they answered, and whether their answers count.

    A listener counts who has answered all catch trials and got `CATCHES_TO_PASS` of them right. Columns: listener,
    answers, catches, catches_right, same_twice (share of catch trials that were answered alike both times),
    headphones_right, headphones, reference_below_90 (share of mushra trials, BS.1534), minutes, counts.
    """
    rows = []
    for listener, own in table.groupby("listener"):
        catch, check = own[own["role"] == CATCH], own[own["role"] == HEADPHONES]
        right = int(sum(a == study.by_id[t].right for a, t in zip(catch["answer"], catch["trial"], strict=True)))
        twice = [group["answer"].nunique() == 1 for _, group in catch.groupby("trial") if len(group) == 2]
        rated = [given[REFERENCE] < 90 for given in own.loc[own["role"] == "mushra", "answer"]]
        wanted = 2 * len(study.catches)
        rows.append(
            {
                "listener": listener,
                "answers": int(own["role"].isin(["ab", "abx", "mushra"]).sum()),
                "catches": len(catch),
                "catches_right": right,
                "same_twice": float(np.mean(twice)) if twice else np.nan,
                "headphones": len(check),
                "headphones_right": int((check["answer"] == "soft").sum()),
                "reference_below_90": float(np.mean(rated)) if rated else np.nan,
                "minutes": float(own["seconds"].sum() / 60),
                "counts": len(catch) == wanted and right >= CATCHES_TO_PASS * wanted,
            }
        )
    return pd.DataFrame(rows)


def agreement(table: pd.DataFrame, question: str) -> float:
    """Probability that two listeners choose alike in an ab trial of a question that both answered; chance is one half.

    NaN where no trial has two answers.
    """
    rows = table[(table["role"] == "ab") & (table["question"] == question)]
    alike = pairs = 0
    for _, own in rows.groupby("trial"):
        counts = own["answer"].value_counts().to_numpy()
        alike += int((counts * (counts - 1)).sum())
        pairs += len(own) * (len(own) - 1)
    return alike / pairs if pairs else float("nan")


def power(n: int, comparisons: int, preference: float = PREFERENCE) -> float:
    """Probability that a preference is found among so many comparisons, by the exact test with n answers each.

    Alpha is divided by the comparisons (Bonferroni), so Holm's power is at least this.
    """
    wins = np.arange(n + 1)
    # The two-sided exact test against one half is twice the smaller tail.
    p = np.minimum(2 * np.minimum(binom.cdf(wins, n, 0.5), binom.sf(wins - 1, n, 0.5)), 1.0)
    return float(binom.pmf(wins, n, preference)[p * comparisons < ALPHA].sum())


def answers_needed(comparisons: int, preference: float = PREFERENCE) -> int:
    """Answers a comparison for a power of `POWER`, at least and at every larger number up to twice it."""
    # Exact power is a saw: a number counts where its successors hold too.
    enough = [power(n, comparisons, preference) >= POWER for n in range(1, 2000)]
    for n in range(len(enough) // 2):
        if all(enough[n : n + 25]):
            return n + 1
    return len(enough)


def comparisons_of(study: Study, kind: str = "ab") -> dict[tuple[str, frozenset[str]], int]:
    """Pairs that the trials of a kind compare under a question, and how many trials each has."""
    return Counter((trial.question, frozenset(trial.clips)) for trial in study.trials if trial.kind == kind)


@dataclass(frozen=True)
class Stopping:
    """Whether more listeners are needed.

    Args:
        stop: whether to stop.
        sentence: why.
    """

    stop: bool
    sentence: str


def stopping(rates: Sequence[WinRate], study: Study, counted: int) -> Stopping:
    """The rule: stop when every comparison is decided, or when the planned number of listeners count.

    A comparison is decided when its anytime p-value, adjusted by Holm over all comparisons of the study, is below 5 %.
    These p-values allow a look after every answer.
    """
    planned = len(comparisons_of(study))
    decided = sum(row.p_anytime_holm < ALPHA for row in rates)
    if planned and decided == planned:
        return Stopping(True, f"Stop: all {planned} comparisons are decided.")
    state = f"{decided} of {planned} comparisons are decided"
    if counted >= study.listeners:
        return Stopping(True, f"Stop: the planned {study.listeners} listeners count; {state}.")
    return Stopping(False, f"Go on: {state}, and {counted} of {study.listeners} listeners count.")
