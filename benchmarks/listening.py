"""Whether a listening test's figures can be trusted, and whether its server loses votes.

Simulated panels answer studies of five and of two systems (24 AB trials, of which a listener gets all; the plan, sides
and catch trials are those of real listeners):

- `coverage`: share of 95 % intervals that hold the true preference of 65 %, exact ones and those over listeners; once
  with listeners who are alike, once with listeners whose log-odds differ by a standard deviation of 0.5 (of a listener
  five systems have one or two answers a comparison, two systems have twelve);
- `false_alarms`: share of studies without any preference in which a comparison is found different (exact test and
  Holm), and the same when somebody looks after every second listener: with the exact test, which does not allow it, and
  with the anytime p-values, which do.

`server`: so many listeners answer at once over HTTP, while the database is copied again and again. The last line is
JSON.
"""

import argparse
import json
import shutil
import sqlite3
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from scipy.special import expit, logit

from timbreflow.app.listening import statistics
from timbreflow.app.listening.make import headphone_tone, headphone_trials, plan_trials
from timbreflow.app.listening.server import ListeningTest
from timbreflow.app.listening.simulate import panel
from timbreflow.app.listening.study import Study, Trial, write_study
from timbreflow.audio.files import write_audio

SYSTEMS = ["vqvae", "glow", "vqvae-2021", "musaicing", "oracle"]
PREFERENCE = 0.65
SPREAD = 0.5


def study_of(systems: list[str], trials: int) -> Study:
    """A study without sound."""
    draw = np.random.default_rng(0)
    files = {role: f"clips/t0-{role}.wav" for role in ("target", "style")}
    check = Trial("training", "ab", "notes", "t0", files, "clips/t0-content.wav", "target")
    triples = [f"t{number}" for number in range(12)]
    return Study(
        format=1,
        title="Simulated",
        consent="Nobody takes part.",
        testset="real",
        test_digest="",
        seed=0,
        lufs=-23.0,
        systems={name: name for name in systems},
        per_listener=trials,
        listeners=20,
        trials=plan_trials(triples, systems, trials=trials, kinds=["ab"], draw=draw),
        training=[check],
        catches=[replace(check, id=f"catch-{number}") for number in range(3)],
        headphones=headphone_trials(draw),
    )


def coverage(study: Study, studies: int, listeners: int, spread: float) -> dict[str, float]:
    """Of both intervals."""
    # The preference of the average listener of such a crowd.
    truth = float(np.mean(expit(logit(PREFERENCE) + spread * np.random.default_rng(0).standard_normal(1_000_000))))
    held = []
    for seed in range(studies):
        table = panel(study, listeners, preference=PREFERENCE, seed=seed, spread=spread)
        for row in statistics.win_rates(table, study, samples=400):
            held.append([i.low <= truth <= i.high for i in (row.rate, row.over_listeners)])
    exact, over = np.mean(held, axis=0)
    return {"truth": round(truth, 4), "exact": round(float(exact), 4), "over_listeners": round(float(over), 4),
            "intervals": len(held)}  # fmt: skip


def false_alarms(study: Study, studies: int, listeners: int) -> dict[str, float]:
    """At the end, and at any look."""
    alarms = []
    for seed in range(studies):
        table = panel(study, listeners, preference=0.5, seed=seed)
        looks = [
            statistics.win_rates(table[table["listener"] <= number], study, samples=1)
            for number in range(2, listeners + 1, 2)
        ]
        exact = [any(row.p_holm < statistics.ALPHA for row in rows) for rows in looks]
        anytime = [any(row.p_anytime_holm < statistics.ALPHA for row in rows) for rows in looks]
        alarms.append([exact[-1], any(exact), any(anytime)])
    end, peeked, allowed = np.mean(alarms, axis=0)
    return {"exact": round(float(end), 4), "exact_looked_at_often": round(float(peeked), 4),
            "anytime_looked_at_often": round(float(allowed), 4), "studies": studies}  # fmt: skip


def server(study: Study, listeners: int) -> dict[str, Any]:
    """Votes sent, votes stored, and copies that were whole."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "study"
        (folder / "clips").mkdir(parents=True)
        for name in sorted({name for trial in study.by_id.values() for name in trial.files}):
            write_audio(folder / name, headphone_tone("loud"), 16000)
        write_study(folder, study)
        test = ListeningTest(folder, open_to_all=True)
        web = uvicorn.Server(uvicorn.Config(test.application(), port=0, log_level="warning"))
        thread = threading.Thread(target=web.run)
        thread.start()
        while not web.started:
            time.sleep(0.01)
        address = f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"

        def listen(_: int) -> int:
            with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
                name = client.post("/api/sessions", json={}).json()["name"]
                steps = client.get(f"/api/sessions/{name}").json()["steps"]
                for step in steps:
                    body = {"position": step["position"], "answer": 0}
                    client.post(f"/api/sessions/{name}/answers", json=body).raise_for_status()
                return len(steps)

        start, copies, whole = time.perf_counter(), 0, 0
        with ThreadPoolExecutor(listeners) as pool:
            running = [pool.submit(listen, number) for number in range(listeners)]
            while not all(one.done() for one in running):
                place = Path(temporary) / f"copy-{copies}"
                place.mkdir()
                for path in sorted(folder.glob("answers.sqlite*")):
                    shutil.copyfile(path, place / path.name)
                database = sqlite3.connect(place / "answers.sqlite")
                whole += database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                database.close()
                copies += 1
                time.sleep(0.2)
            sent = sum(one.result() for one in running)
        seconds = time.perf_counter() - start
        web.should_exit = True
        thread.join()
        stored = test.answers.counts()["answers"]
        test.answers.close()
    return {"listeners": listeners, "sent": sent, "stored": stored, "votes_a_second": round(sent / seconds, 1),
            "copies": copies, "whole": whole}  # fmt: skip


def main() -> None:
    """Print each figure as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--listeners", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=50, help="listeners of the server")
    parser.add_argument("--only", default="", help="one of these figures")
    arguments = parser.parse_args()
    study, two = study_of(SYSTEMS, 24), study_of(SYSTEMS[:2], 24)
    figures: dict[str, Any] = {}
    for name, compute in {
        "server": lambda: server(study, arguments.at_once),
        "coverage": lambda: coverage(study, arguments.studies, arguments.listeners, 0.0),
        "coverage_listeners_differ": lambda: coverage(study, arguments.studies, arguments.listeners, SPREAD),
        "coverage_two_systems": lambda: coverage(two, arguments.studies, arguments.listeners, 0.0),
        "coverage_two_systems_listeners_differ": lambda: coverage(two, arguments.studies, arguments.listeners, SPREAD),
        "false_alarms": lambda: false_alarms(study, arguments.studies, arguments.listeners),
    }.items():
        if arguments.only not in ("", name):
            continue
        figures[name] = compute()
        print(name, figures[name], flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
