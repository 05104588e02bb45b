"""The database: what is stored, what is refused, and copies of it."""

import dataclasses
import json
import shutil
import sqlite3
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.app.listening.conftest import small_study
from timbreflow.app.listening.answers import Answers, plan_session
from timbreflow.app.listening.simulate import simulate
from timbreflow.app.listening.study import Study, write_study
from timbreflow.app.web import Refused
from timbreflow.errors import TimbreflowError


@pytest.fixture
def answers(folder: Path, study: Study) -> Any:
    opened = Answers(folder, study)
    yield opened
    opened.close()


def answer_all(answers: Answers, *, until: int = 1000) -> int:
    name, secret = answers.begin()
    steps = answers.steps(name, secret)[:until]
    for step in steps:
        answers.save(name, secret, step.position, [50] * len(step.slots) if step.trial.kind == "mushra" else 0)
    return len(steps)


def test_every_side_and_order_is_balanced() -> None:
    study = small_study(trials=24, per_listener=12, kinds=("ab",))
    heard: Counter[str] = Counter()
    firsts = defaultdict(list)
    orders = set()
    for number in range(1, 21):
        steps = plan_session(study, number, dict(heard))
        main = [step for step in steps if step.role == "ab"]
        assert len({step.trial.id for step in main}) == 12
        heard.update(step.trial.id for step in steps)
        orders.add(tuple(step.trial.id for step in main))
        for step in main:
            firsts[step.trial.id].append(step.slots[0])
        catches = [step for step in steps if step.role == "catch"]
        for trial in study.catches:
            sides = [step.slots[0] for step in catches if step.trial == trial]
            assert sorted(sides) == sorted(trial.clips)  # once on each side
        assert [step.role for step in steps[:7]] == ["headphones"] * 6 + ["training"]
    assert {heard[trial.id] for trial in study.trials} == {10}
    assert all(max(Counter(sides).values()) == 5 for sides in firsts.values())
    assert len(orders) == 20


def test_abx_hides_each_clip_and_mushra_shuffles() -> None:
    study = small_study(trials=12, per_listener=12)
    steps = [step for number in range(1, 41) for step in plan_session(study, number, {})]
    hidden = Counter(step.slots.index(step.hidden) for step in steps if step.role == "abx")
    assert min(hidden.values()) > 0.3 * hidden.total()
    places = Counter(step.slots.index("reference") for step in steps if step.role == "mushra")
    assert set(places) == set(range(5))


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        *(("ab", answer) for answer in (2, -1, True, "0", None)),
        *(
            ("mushra", answer)
            for answer in ([50] * 4, [50] * 4 + [101], [50] * 4 + [float("nan")], 3, ["1"] * 5, "12345")
        ),
    ],
)
def test_answers_out_of_range_are_refused(answers: Answers, kind: str, answer: Any) -> None:
    name, secret = answers.begin()
    step = next(step for step in answers.steps(name, secret) if step.role == kind)
    with pytest.raises(Refused, match="nothing was saved") as error:
        answers.save(name, secret, step.position, answer)
    assert error.value.status == 422 and answers.counts()["answers"] == 0


@pytest.mark.parametrize("position", [-1, 1000, "0", None, True, "../../x"])
def test_positions_out_of_range_are_refused(answers: Answers, position: Any) -> None:
    with pytest.raises(Refused, match="There is no step"):
        answers.save(*answers.begin(), position, 0)


def test_the_first_of_two_votes_is_kept(answers: Answers) -> None:
    name, secret = answers.begin()
    answers.save(name, secret, 0, 1)
    with pytest.raises(Refused, match="answered before; the first answer is kept") as error:
        answers.save(name, secret, 0, 2)
    assert error.value.status == 409
    step = answers.steps(name, secret)[0]
    assert step.answer == step.slots[1] and answers.counts()["answers"] == 1


def test_nobody_votes_for_another(answers: Answers) -> None:
    (name, _), (_, other) = answers.begin(), answers.begin()
    for wrong, status in ((other, 403), ("", 403), ("x", 403)):
        with pytest.raises(Refused, match="another listener's") as error:
            answers.save(name, wrong, 0, 0)
        assert error.value.status == status
    with pytest.raises(Refused, match="no such session"):
        answers.save("../../x", other, 0, 0)
    assert answers.counts() == {"listeners": 2, "answers": 0, "simulated_listeners": 0, "simulated_answers": 0}


def test_what_was_saved_is_there_for_the_next_program(folder: Path, study: Study) -> None:
    first = Answers(folder, study)
    n = answer_all(first, until=9)
    # As after a kill: not closed.
    second = Answers(folder, study)
    assert second.counts()["answers"] == n == 9 and second.token == first.token
    first.close()
    second.close()


def test_simulated_answers_stay_apart(folder: Path, study: Study) -> None:
    saved = simulate(folder, 3, preference=0.9)
    answers = Answers(folder, study)
    n = answer_all(answers)
    people, simulated = answers.table(), answers.table(simulated=True)
    answers.close()
    assert len(people) == n and len(simulated) == saved
    assert set(people["listener"]).isdisjoint(simulated["listener"])


def test_answers_belong_to_their_study(folder: Path, study: Study) -> None:
    Answers(folder, study).close()
    changed = dataclasses.replace(study, title="Another")
    write_study(folder, changed)
    with pytest.raises(TimbreflowError, match=r"answers\.sqlite holds answers to another study\.yaml"):
        Answers(folder, changed)


def test_a_broken_database_is_refused(folder: Path, study: Study) -> None:
    (folder / "answers.sqlite").write_text("no database " * 1000)
    with pytest.raises(TimbreflowError, match=r"answers\.sqlite cannot be used"):
        Answers(folder, study)


def test_a_copy_of_a_database_that_is_written_to_is_whole(folder: Path, study: Study, tmp_path: Path) -> None:
    answers = Answers(folder, study)
    done = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            while not done.is_set():
                answer_all(answers)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    found = []
    for number in range(6):
        before = answers.counts()["answers"]
        copy = tmp_path / f"copy-{number}"
        copy.mkdir()
        for path in sorted(folder.glob("answers.sqlite*")):
            shutil.copyfile(path, copy / path.name)
        database = sqlite3.connect(copy / "answers.sqlite")
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = database.execute("SELECT answer FROM steps WHERE answer IS NOT NULL").fetchall()
        assert all(json.loads(row[0]) is not None for row in rows)
        database.close()
        assert before <= len(rows) <= answers.counts()["answers"]
        found.append(len(rows))
    done.set()
    for writer in writers:
        writer.join()
    answers.close()
    assert not failures and found[-1] > found[0]
