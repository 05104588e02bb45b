"""Simulated listeners: to rehearse a study and to check its statistics. Their answers are marked as such for good."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timbreflow.app.listening.answers import Answers, Step, plan_session
from timbreflow.app.listening.study import ANCHOR, REFERENCE, Study, read_study
from timbreflow.errors import TimbreflowError


def answer_of(
    step: Step,
    study: Study,
    draw: np.random.Generator,
    *,
    preference: float,
    shift: float = 0.0,
    careless: bool = False,
) -> Any:
    """A slot, or a rating for each slot, as the page would send it.

    Args:
        step: what is asked.
        study: of two systems the one that it names first is preferred.
        draw: of this listener.
        preference: probability that the first one is chosen; of abx, that the answer is right.
        shift: of this listener, added to the preference's log-odds.
        careless: answers by chance.
    """
    if step.trial.kind == "mushra":
        place = {REFERENCE: 95.0, **{name: 75.0 - 10 * index for index, name in enumerate(study.systems)}, ANCHOR: 20.0}
        means = [50.0 if careless else place[name] for name in step.slots]
        return [int(value) for value in np.clip(draw.normal(means, 30 if careless else 4), 0, 100)]
    if careless:
        return int(draw.integers(len(step.slots)))
    if step.trial.right:
        return step.slots.index(step.trial.right)
    wanted = step.hidden or min(step.slots, key=list(study.systems).index)
    odds = preference / (1 - preference) * np.exp(shift)
    chosen = draw.random() < odds / (1 + odds)
    return step.slots.index(wanted) if chosen else 1 - step.slots.index(wanted)


def panel(
    study: Study, n: int, *, preference: float, seed: int, spread: float = 0.0, careless: float = 0.0
) -> pd.DataFrame:
    """Answers of n listeners as the table that `Answers.table` gives, without a database.

    Args:
        study: what is asked.
        n: listeners.
        preference: of the system that the study names first of a pair.
        seed: of all draws.
        spread: standard deviation of the listeners' log-odds.
        careless: share of listeners that answer by chance.
    """
    draw = np.random.default_rng(seed)
    heard: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for number in range(1, n + 1):
        shift, lazy = spread * draw.standard_normal(), draw.random() < careless
        # Other plans for every panel of one study.
        for step in plan_session(study, seed * 10_000 + number, heard):
            heard[step.trial.id] = heard.get(step.trial.id, 0) + 1
            given = answer_of(step, study, draw, preference=preference, shift=shift, careless=lazy)
            trial, mushra = step.trial, step.trial.kind == "mushra"
            rows.append(
                {
                    "listener": number,
                    "position": step.position,
                    "trial": trial.id,
                    "role": step.role,
                    "slots": step.slots,
                    "hidden": step.hidden,
                    "answer": dict(zip(step.slots, given, strict=True)) if mushra else step.slots[given],
                    "seconds": 10.0,
                    "saved": float(len(rows)),
                    "kind": trial.kind,
                    "question": trial.question,
                    "triple": trial.triple,
                }
            )
    return pd.DataFrame(rows)


def simulate(folder: Path, n: int, *, preference: float, seed: int = 0, careless: float = 0.1) -> int:
    """Let n simulated listeners answer a study; returns the number of their answers.

    Raises:
        TimbreflowError: a number is out of range, or the study cannot be used.
    """
    if n < 1 or not 0 < preference < 1 or not 0 <= careless <= 1:
        raise TimbreflowError(
            f"--listeners is {n}, --preference {preference:g} and --careless {careless:g}; give at least 1 listener, a "
            "preference above 0 and below 1, and careless from 0 to 1."
        )
    study = read_study(folder)
    answers, draw, saved = Answers(folder, study), np.random.default_rng(seed), 0
    try:
        for _ in range(n):
            name, secret = answers.begin(simulated=True)
            lazy = draw.random() < careless
            for step in answers.steps(name, secret):
                given = answer_of(step, study, draw, preference=preference, careless=lazy)
                answers.save(name, secret, step.position, json.loads(json.dumps(given)), float(draw.gamma(4, 3)))
                saved += 1
    finally:
        answers.close()
    return saved
