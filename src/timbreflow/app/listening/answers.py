"""Answers of a study in SQLite: one row a step of a listener, written before the page says thanks.

The database is in WAL mode and is never checkpointed while it is served: its main file does not change, and the -wal
file only grows. A plain copy of the folder is therefore whole at any time.
"""

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timbreflow.app.listening.study import HEADPHONES, Study, Trial, digest_of
from timbreflow.app.web import Refused
from timbreflow.errors import TimbreflowError

DATABASE = "answers.sqlite"

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
  number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, secret TEXT NOT NULL UNIQUE,
  simulated INTEGER NOT NULL CHECK (simulated IN (0, 1)), begun REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS steps (
  session INTEGER NOT NULL REFERENCES sessions (number), position INTEGER NOT NULL, trial TEXT NOT NULL,
  role TEXT NOT NULL, slots TEXT NOT NULL, hidden TEXT NOT NULL, answer TEXT, seconds REAL, saved REAL,
  PRIMARY KEY (session, position)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Step:
    """What a listener is given at one position.

    Args:
        position: from 0.
        trial: what is compared.
        role: kind of a trial that counts, or training, catch, headphones.
        slots: names of the trial's clips in the order of the page.
        hidden: abx: the clip that the reference is a copy of; else empty.
        answer: clip that was chosen, or ratings by clip; None where there is no answer yet.
    """

    position: int
    trial: Trial
    role: str
    slots: list[str]
    hidden: str
    answer: Any

    def reference(self) -> str:
        """File of the reference, empty where there is none."""
        return self.trial.clips[self.hidden] if self.hidden else self.trial.reference


class Answers:
    """The database of one study. Safe in threads.

    Args:
        folder: of the study.
        study: as read from it.

    Raises:
        TimbreflowError: the database is broken, or belongs to another study.yaml.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        self.path, self.study = folder / DATABASE, study
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0", "foreign_keys = ON"):
                self._database.execute(f"PRAGMA {pragma}")
            self._database.executescript(_TABLES)
            with self._writing() as database:
                for name, value in (("study", digest_of(folder)), ("token", secrets.token_urlsafe(16))):
                    database.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            facts = dict(self._database.execute("SELECT name, value FROM facts"))
        except sqlite3.DatabaseError as error:
            raise TimbreflowError(f"{self.path} cannot be used ({error}); restore a copy of it.") from error
        self.token: str = facts["token"]
        if facts["study"] != digest_of(folder):
            raise TimbreflowError(
                f"{self.path} holds answers to another study.yaml; restore that file, or make a new study for new "
                "questions."
            )

    def close(self) -> None:
        """Close; the last program that does so moves the -wal file into the database."""
        self._database.close()

    def begin(self, *, simulated: bool = False) -> tuple[str, str]:
        """A new listener's name, which addresses have, and secret, which nobody else knows."""
        name, secret = secrets.token_hex(4), secrets.token_urlsafe(16)
        with self._writing() as database:
            number = database.execute("SELECT coalesce(max(number), 0) + 1 FROM sessions").fetchone()[0]
            heard = database.execute(
                "SELECT trial, count(*) FROM steps JOIN sessions ON session = number WHERE simulated = ? "
                "GROUP BY trial",
                (simulated,),
            )
            steps = plan_session(self.study, number, dict(heard.fetchall()))
            database.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", (number, name, secret, simulated, time.time())
            )
            database.executemany(
                "INSERT INTO steps (session, position, trial, role, slots, hidden) VALUES (?, ?, ?, ?, ?, ?)",
                [(number, s.position, s.trial.id, s.role, json.dumps(s.slots), s.hidden) for s in steps],
            )
        return name, secret

    def session_of(self, secret: str) -> str | None:
        """Name of the session that a secret opens."""
        with self._lock:
            row = self._database.execute("SELECT name FROM sessions WHERE secret = ?", (secret,)).fetchone()
        return str(row[0]) if row else None

    def steps(self, name: str, secret: str) -> list[Step]:
        """All steps of a session.

        Raises:
            Refused: there is no such session, or the secret is another's.
        """
        with self._lock:
            number = self._number(name, secret)
            rows = self._database.execute(
                "SELECT position, trial, role, slots, hidden, answer FROM steps WHERE session = ? ORDER BY position",
                (number,),
            ).fetchall()
        return [
            Step(position, self.study.by_id[trial], role, json.loads(slots), hidden, json.loads(answer or "null"))
            for position, trial, role, slots, hidden, answer in rows
        ]

    def save(self, name: str, secret: str, position: Any, answer: Any, seconds: float = 0.0) -> int:
        """Store an answer, once and for good; returns after it is on disk.

        Args:
            name: of the session.
            secret: of the session.
            position: of the step.
            answer: index of the chosen slot, or for mushra one rating from 0 to 100 a slot.
            seconds: that the listener took.

        Returns:
            The number of steps that are left.

        Raises:
            Refused: the session is another's, the position or the answer is out of range, or it was answered already.
        """
        steps = self.steps(name, secret)
        if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position < len(steps):
            raise Refused(f"There is no step {str(position)[:20]} in this session; nothing was saved.", 422)
        step = steps[position]
        chosen = _chosen(step, answer)
        with self._writing() as database:
            number = self._number(name, secret)
            written = database.execute(
                "UPDATE steps SET answer = ?, seconds = ?, saved = ? "
                "WHERE session = ? AND position = ? AND answer IS NULL",
                (json.dumps(chosen), min(max(float(seconds), 0.0), 1e6), time.time(), number, position),
            ).rowcount
            left = database.execute(
                "SELECT count(*) FROM steps WHERE session = ? AND answer IS NULL", (number,)
            ).fetchone()[0]
        if not written:
            raise Refused("This step was answered before; the first answer is kept.", 409)
        return int(left)

    def table(self, *, simulated: bool = False) -> pd.DataFrame:
        """One row an answer, of people or of simulated listeners, never of both.

        Columns: listener (number), position, trial, role, kind, question, triple, slots, hidden, answer, seconds,
        saved.
        """
        with self._lock:
            rows = self._database.execute(
                "SELECT session, position, trial, role, slots, hidden, answer, seconds, saved "
                "FROM steps JOIN sessions ON session = number "
                "WHERE simulated = ? AND answer IS NOT NULL ORDER BY session, position",
                (simulated,),
            ).fetchall()
        names = ["listener", "position", "trial", "role", "slots", "hidden", "answer", "seconds", "saved"]
        table = pd.DataFrame(rows, columns=names)
        for column in ("slots", "answer"):
            table[column] = [json.loads(value) for value in table[column]]
        for fact in ("kind", "question", "triple"):
            table[fact] = [getattr(self.study.by_id[trial], fact) for trial in table["trial"]]
        return table

    def counts(self) -> dict[str, int]:
        """Sessions and answers of people and of simulated listeners."""
        with self._lock:
            rows = self._database.execute(
                "SELECT simulated, count(DISTINCT session), count(answer) FROM steps "
                "JOIN sessions ON session = number GROUP BY simulated"
            ).fetchall()
        found = {bool(simulated): (sessions, answers) for simulated, sessions, answers in rows}
        people, simulated = found.get(False, (0, 0)), found.get(True, (0, 0))
        return {
            "listeners": people[0],
            "answers": people[1],
            "simulated_listeners": simulated[0],
            "simulated_answers": simulated[1],
        }

    def _number(self, name: str, secret: str) -> int:
        row = self._database.execute("SELECT number, secret FROM sessions WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise Refused("There is no such session; open the link that you were sent again.", 404)
        if not secrets.compare_digest(str(row[1]).encode(), secret.encode()):
            raise Refused("This session is another listener's; nothing was saved.", 403)
        return int(row[0])

    @contextmanager
    def _writing(self) -> Any:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


def plan_session(study: Study, number: int, heard: dict[str, int]) -> list[Step]:
    """What the listener of that number is given, in order.

    The headphone check and the training come first. Then the trials that were given least often so far, in random
    order, with every catch trial twice among them. The sides of a trial alternate from one of its listeners to the
    next, and half of the trials begin exchanged; a catch trial's second time has its sides exchanged.

    Args:
        study: the study.
        number: of the listener, from 1.
        heard: trial to how many listeners were given it.
    """
    draw = np.random.default_rng([study.seed, number])
    shuffled = draw.permutation(len(study.trials))
    order = sorted(shuffled, key=lambda index: heard.get(study.trials[index].id, 0))[: study.per_listener]
    main = [(study.trials[index], (index + heard.get(study.trials[index].id, 0)) % 2) for index in order]
    draw.shuffle(main)
    first, second = (
        [(trial, (index + number + time) % 2) for index, trial in enumerate(study.catches)] for time in (0, 1)
    )
    half = len(main) // 2
    parts = [main[:half] + first, main[half:] + second]
    for part in parts:
        draw.shuffle(part)
    planned = [(trial, 0) for trial in (*study.headphones, *study.training)] + parts[0] + parts[1]
    steps = []
    for position, (trial, exchanged) in enumerate(planned):
        slots = list(trial.clips)
        if trial.kind == "mushra":
            slots = [slots[index] for index in draw.permutation(len(slots))]
        elif trial.kind != HEADPHONES and exchanged:
            slots.reverse()
        hidden = list(trial.clips)[int(draw.integers(2))] if trial.kind == "abx" else ""
        steps.append(Step(position, trial, study.role(trial.id), slots, hidden, None))
    return steps


def _chosen(step: Step, answer: Any) -> Any:
    """An answer in the names of clips.

    Raises:
        Refused: it is out of range.
    """
    if step.trial.kind == "mushra":
        if not (isinstance(answer, Sequence) and len(answer) == len(step.slots) and all(map(_rating, answer))):
            raise Refused(f"Give {len(step.slots)} ratings from 0 to 100; nothing was saved.", 422)
        return dict(zip(step.slots, answer, strict=True))
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(step.slots):
        raise Refused(f"Choose one of {len(step.slots)} clips; nothing was saved.", 422)
    return step.slots[answer]


def _rating(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100
