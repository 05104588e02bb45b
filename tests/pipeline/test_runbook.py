"""The runbook: what docs/operations.md says is typed in a copy of this checkout.

Here one box, back-ups, upgrades, deployments and workers; test_runbook_serving.py has what serves models,
test_remote_s3.py remotes, tests/tracking/test_postgres_s3.py a team's server. What no test can type is listed in
tests/runbook.py.
"""

import json
import shutil
from collections.abc import Iterator

import pytest
from checkout import ROOT, Checkout

from benchmarks.services import receiver
from tests.runbook import blocks, type_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# .venv is that of the checkout which is tested, and is not made again.
VALUES = {"make ": "make -s -o .venv/.core -o .venv/.installed "}
NOT_COMMITTED = ("data/served/2026-11-30-001.jsonl", "data/monitor/reference.json", "results/validate_data/history.csv")
"""Neither git nor DVC has these."""
PORTS = {"5000": "TIMBREFLOW_MLFLOW_PORT", "4200": "TIMBREFLOW_PREFECT_PORT"}
RUN = """\
from pathlib import Path
from timbreflow.tracking.runs import open_run
with open_run("train_glow", {"fit": {"steps": 1}}, root=Path.cwd()) as run:
    run.log(1, {"loss": 0.5})
    run.artifact(Path("params.yaml"))
"""
ASK = """\
from pathlib import Path
from timbreflow.tracking.connection import connect
client = connect(Path.cwd())
for run in client.search_runs(["1"]):
    print(run.info.run_id, run.data.metrics, [file.path for file in client.list_artifacts(run.info.run_id)])
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """With its servers, one flow run and one MLflow run."""
    checkout = Checkout(tmp_path_factory.mktemp("box") / "checkout")
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, checkout.root / name)
    shutil.copytree(ROOT / ".ci", checkout.root / ".ci")
    assert checkout.run("timbreflow", "ui").returncode == 0
    checkout.reproduce("collect_midi")
    made = checkout.run("python", "-c", RUN)
    assert made.returncode == 0, made.stdout
    yield checkout
    checkout.run("timbreflow", "stop")


def seen(checkout: Checkout) -> tuple[list[str], str]:
    """Ids of the flow runs, and MLflow's runs with their values and files."""
    runs = checkout.run("python", "-c", ASK)
    assert runs.returncode == 0, runs.stdout
    return sorted(run["id"] for run in checkout.flow_runs()), runs.stdout


def test_one_box(checkout: Checkout) -> None:
    (block,) = blocks("One box", VALUES | {"dvc repro": "dvc repro collect_midi"})
    before = seen(checkout)
    output = type_in(block, checkout.root, checkout.environment)
    port = checkout.environment["TIMBREFLOW_PREFECT_PORT"]
    assert f"prefect  http://127.0.0.1:{port}" in output
    assert "stopped: prefect, mlflow" in output
    assert checkout.run("timbreflow", "ui").returncode == 0
    assert seen(checkout) == before


def test_a_restored_copy_shows_the_same_runs_and_records(checkout: Checkout) -> None:
    files = [checkout.root / name for name in NOT_COMMITTED]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    before = seen(checkout)
    assert len(before[0]) == 1 and "params.yaml" in before[1] and "'loss': 0.5" in before[1]
    back_up, restore, _, _ = blocks("Back up and restore", VALUES)
    type_in(back_up, checkout.root, checkout.environment)
    # What comes later is lost, and what is lost comes back.
    assert checkout.run("python", "-c", RUN).returncode == 0
    assert seen(checkout) != before
    shutil.rmtree(checkout.root / ".mlflow" / "artifacts")
    for file in files:
        file.unlink()
    type_in(restore, checkout.root, checkout.environment)
    assert seen(checkout) == before
    assert [file.read_text() for file in files] == [file.name for file in files]
    shutil.rmtree(checkout.root / "backup")
    shutil.rmtree(checkout.root / "before-restore")


def test_an_upgrade_keeps_the_runs(checkout: Checkout) -> None:
    before = seen(checkout)
    upgrade, _, _ = blocks("Upgrade and roll back", VALUES)
    type_in(upgrade, checkout.root, checkout.environment)
    assert seen(checkout) == before


def test_runs_of_a_lost_machine_are_ended_by_hand(checkout: Checkout) -> None:
    flow = checkout.ask("flows/", {"name": "lost"})
    lost = checkout.ask("flow_runs/", {"name": "lost", "flow_id": flow["id"], "state": {"type": "RUNNING"}})["id"]
    left = RUN.replace("run.log(1", "print(run.run_id, flush=True); __import__('os')._exit(0)\n    run.log(1")
    run_id = checkout.run("python", "-c", left).stdout.split()[-1]
    ports = {f":{port}": f":{checkout.environment[name]}" for port, name in PORTS.items()}
    (block,) = blocks("A machine that is lost", {"FLOW_RUN_ID": lost, "RUN_ID": run_id} | ports)
    type_in(block, checkout.root, checkout.environment)
    assert next(run["state_type"] for run in checkout.flow_runs() if run["id"] == lost) == "CRASHED"
    status = ASK.partition("for ")[0] + f"print(client.get_run({run_id!r}).info.status)"
    assert checkout.run("python", "-c", status).stdout.split()[-1] == "KILLED"


def test_workers_of_a_cluster(checkout: Checkout) -> None:
    """The worker of another machine takes a run of the pool and says so; the pool is made as Deployments says."""
    in_processes, in_containers = blocks("Deployments", VALUES)
    _, create, queue, deploy, start = in_processes.splitlines()[1:]
    (worker,) = blocks("A cluster")
    port = checkout.environment["TIMBREFLOW_PREFECT_PORT"]
    mlflow = checkout.environment["TIMBREFLOW_MLFLOW_PORT"]
    worker = worker.replace(":4200", f":{port}").replace(":5000", f":{mlflow}") + " --run-once"
    environment = checkout.environment | {
        "TIMBREFLOW_ROOT": str(checkout.root),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    for line in (create, queue, deploy, *in_containers.splitlines()[1:], f"{start} --run-once"):
        type_in(line, checkout.root, environment)
    (schedules,) = blocks("Schedules")
    table, resume = schedules.splitlines()
    (shown,) = json.loads(type_in(f"{table} --output json", checkout.root, environment))
    assert not shown["active"]
    type_in(resume.replace("SCHEDULE_ID", shown["id"]), checkout.root, environment)
    (now,) = json.loads(type_in(f"{table} --output json", checkout.root, environment))
    assert now["active"]
    with receiver() as (address, _):
        (alerts,) = blocks("Alerts", {"https://hooks.example.org/KEY": address})
        assert "a promotion was refused" in type_in(alerts, checkout.root, environment)
    type_in(".venv/bin/prefect deployment run promote/promote --param name=glow", checkout.root, environment)
    type_in(worker, checkout.root, environment)
    states = {run["name"]: run["state_type"] for run in checkout.flow_runs()}
    assert states["promote-glow"] == "FAILED"  # there is no challenger
