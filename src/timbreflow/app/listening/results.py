"""`timbreflow listen results`: answers as tables, charts and one page."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from timbreflow.app.listening import statistics
from timbreflow.app.listening.answers import DATABASE, Answers
from timbreflow.app.listening.statistics import WinRate
from timbreflow.app.listening.study import ANCHOR, CATCHES_TO_PASS, HEADPHONES_TO_PASS, REFERENCE, Study, read_study
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, atomic_file
from timbreflow.reporting.charts import interval_chart

TITLES = {
    "notes": "Which one keeps the notes of the content?",
    "timbre": "Which one sounds more like the instrument of the style?",
}


def write_results(folder: Path, *, out: Path | None = None, simulated: bool = False) -> str:
    """Write OUT/{index.html, wins.csv, strengths.csv, ratings.csv, listeners.csv, answers.csv}.

    Args:
        folder: of the study.
        out: STUDY/results, or STUDY/results-simulated.
        simulated: take the simulated listeners, and say so everywhere; else take people only.

    Returns:
        A summary for the terminal.

    Raises:
        TimbreflowError: there are no answers, or the study cannot be used.
    """
    study = read_study(folder)
    if not (folder / DATABASE).is_file():
        raise TimbreflowError(f"{folder / DATABASE} is missing, so nobody has answered; run `timbreflow listen serve`.")
    answers = Answers(folder, study)
    try:
        table, counts = answers.table(simulated=simulated), answers.counts()
    finally:
        answers.close()
    if table.empty:
        who = "simulated listener" if simulated else "person"
        others = counts["answers" if simulated else "simulated_answers"]
        hint = f"; there are {others} of {'people' if simulated else 'simulated listeners'}" if others else ""
        raise TimbreflowError(f"{folder / DATABASE} holds no answer of any {who}{hint}; run `timbreflow listen serve`.")
    place = out or folder / ("results-simulated" if simulated else "results")
    if out is not None and out.exists() and not (out / "wins.csv").is_file() and any(out.iterdir()):
        raise TimbreflowError(f"{out} holds other files; name a new folder.")
    view = analyse(table, study)
    with atomic_directory(place) as temporary:
        for name, rows in _tables(view, table, simulated).items():
            rows.to_csv(temporary / f"{name}.csv", index=False, float_format="%.6g")
        with atomic_file(temporary / "index.html") as page:
            text = _environment().get_template("results.html").render(study=study, simulated=simulated, **view)
            page.write_text(text, encoding="utf-8")
    lines = ["SIMULATED LISTENERS: no person gave these answers."] if simulated else []
    lines += [f"{view['counted']} of {len(view['listeners'])} listeners count.", view["stopping"].sentence]
    # Each line of its own, since lines are copied.
    mark = "simulated: " if simulated else ""
    lines += [mark + sentence(row, study) for rows in view["wins"].values() for row in rows]
    return "\n".join([*lines, f"wrote {place / 'index.html'}"])


def analyse(table: pd.DataFrame, study: Study) -> dict[str, Any]:
    """All figures of a study, as the page shows them."""
    listeners = statistics.listeners(table, study)
    kept = table[table["listener"].isin(listeners.loc[listeners["counts"], "listener"])]
    wins = statistics.win_rates(kept, study)
    planned = statistics.comparisons_of(study)
    strengths = {question: statistics.strengths(kept, list(study.systems), question) for question in TITLES}
    ratings = statistics.ratings(kept, list(study.systems))
    counted = int(listeners["counts"].sum())
    shown = {**study.systems, REFERENCE: "hidden reference", ANCHOR: "anchor, 3.5 kHz"}

    def answers_each(number: int) -> int:
        return round(number * study.per_listener * sum(planned.values()) / len(study.trials) / max(len(planned), 1))

    needed = statistics.answers_needed(len(planned)) if planned else 0
    return {
        "listeners": listeners.to_dict("records"),
        "counted": counted,
        "wins": {question: [row for row in wins if row.question == question] for question in TITLES},
        "abx": statistics.win_rates(kept, study, kind="abx"),
        "strengths": strengths,
        "strength_charts": {
            question: interval_chart(
                [(study.systems[name], name, value) for name, value in own.items()],
                title=f"Strengths: {TITLES[question]}",
            )
            for question, own in strengths.items()
            if own
        },
        "ratings": ratings,
        "rating_chart": interval_chart(
            [(shown[name], name, value) for name, value in ratings.items()], title="Mean ratings", ends=(0, 100)
        )
        if ratings
        else "",
        "agreement": {question: statistics.agreement(kept, question) for question in TITLES},
        "power": [
            (number, answers_each(number), statistics.power(answers_each(number), max(len(planned), 1)))
            for number in sorted({counted, 5, 10, 20, 40, 80, study.listeners} - {0})
        ]
        if planned
        else [],
        "needed": needed,
        "comparisons": len(planned),
        "stopping": statistics.stopping(wins, study, counted),
        "names": shown,
        "titles": TITLES,
        "sentence": lambda row: sentence(row, study),
        "alpha": statistics.ALPHA,
        "catches_to_pass": CATCHES_TO_PASS,
        "headphones_to_pass": HEADPHONES_TO_PASS,
        "preference": statistics.PREFERENCE,
        "target_power": statistics.POWER,
    }


def sentence(row: WinRate, study: Study) -> str:
    """What a row of the table says, in the words that a paper may use."""
    first, second = study.systems[row.first], study.systems[row.second]
    low, high = (f"{100 * value:.0f}" for value in (row.rate.low, row.rate.high))
    figures = (
        f"{row.wins} of {row.n} answers, {100 * row.rate.value:.0f} %, 95 % interval {low} to {high} %, "
        f"exact binomial test, p = {row.p_holm:.2g} after Holm"
    )
    what = {"notes": "keeping the notes", "timbre": "the instrument's sound"}[row.question]
    if row.p_holm >= statistics.ALPHA:
        return f"For {what}, no preference between {first} and {second} was found ({first} in {figures})."
    better, worse = (first, second) if row.rate.value > 0.5 else (second, first)
    return f"For {what}, listeners preferred {better} to {worse} ({first} in {figures})."


def _tables(view: dict[str, Any], table: pd.DataFrame, simulated: bool) -> dict[str, pd.DataFrame]:
    """The CSV files; every row says whether people gave it."""
    wins = [
        {
            "question": row.question,
            "first": row.first,
            "second": row.second,
            "wins": row.wins,
            "n": row.n,
            "listeners": row.listeners,
            "rate": row.rate.value,
            "low": row.rate.low,
            "high": row.rate.high,
            "low_over_listeners": row.over_listeners.low,
            "high_over_listeners": row.over_listeners.high,
            "p": row.p,
            "p_holm": row.p_holm,
            "p_anytime": row.p_anytime,
            "p_anytime_holm": row.p_anytime_holm,
        }
        for row in (*(row for rows in view["wins"].values() for row in rows), *view["abx"])
    ]
    strengths = [
        {"question": question, "system": name, "strength": value.value, "low": value.low, "high": value.high}
        for question, own in view["strengths"].items()
        for name, value in own.items()
    ]
    ratings = [
        {"system": name, "rating": value.value, "low": value.low, "high": value.high}
        for name, value in view["ratings"].items()
    ]
    answers = table.assign(
        slots=[" ".join(slots) for slots in table["slots"]],
        answer=[
            " ".join(f"{name}={value}" for name, value in given.items()) if isinstance(given, dict) else given
            for given in table["answer"]
        ],
    )
    tables = {
        "wins": pd.DataFrame(wins),
        "strengths": pd.DataFrame(strengths),
        "ratings": pd.DataFrame(ratings),
        "listeners": pd.DataFrame(view["listeners"]),
        "answers": answers,
    }
    return {name: rows.assign(simulated=simulated) for name, rows in tables.items()}


@cache
def _environment() -> jinja2.Environment:
    folder = resources.files("timbreflow.app.listening")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.0f} %"
    environment.filters["p"] = lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}"
    return environment
