"""A team's server as docs/operations.md gives it: MLflow and Prefect on PostgreSQL, artifacts in S3."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import psutil
import pytest

from benchmarks.services import S3_KEY, answers, free_port, object_store, postgres, postgres_programs, running, wait_for
from tests.runbook import blocks, command, type_in
from tests.tracking.test_registry import evaluation, overwrite_with_noise, promote, register, variant, versions
from timbreflow.errors import TimbreflowError
from timbreflow.tracking import connection
from timbreflow.tracking.registry import resolve
from timbreflow.tracking.runs import open_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(postgres_programs() is None, reason="PostgreSQL is not installed: apt-get install postgresql"),
]


@dataclass
class Team:
    """The services, what the page's examples stand for, and the servers that run."""

    root: Path
    store: str
    values: dict[str, str]
    environment: dict[str, str]
    mlflow: str
    prefect: str
    ends: dict[str, ExitStack] = field(default_factory=dict)

    def start(self, name: str, block: str, url: str) -> None:
        self.ends[name] = ExitStack()
        log = self.root / f"{name}.log"
        process = self.ends[name].enter_context(running(command(block), log, self.environment, cwd=self.root))
        wait_for(lambda: answers(url), process, name, log)

    def stop(self, name: str) -> None:
        self.ends.pop(name).close()


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    root = tmp_path_factory.mktemp("team")
    (root / ".venv").symlink_to(sys.prefix)
    with postgres("mlflow", "prefect") as database, object_store("timbreflow") as store:
        ports = free_port(), free_port()
        values = {
            "team:PASSWORD@db.lab:5432": database,
            "team@db.lab:5432": f"team@{database.partition('@')[2]}",
            "http://store.lab:9000": store,
            # On a busy machine uvicorn takes slow workers for dead ones; a single one it does not watch.
            "--port 5000": f"--port {ports[0]} --workers 1",
            "--port 4200": f"--port {ports[1]}",
            "127.0.0.1:5000": f"127.0.0.1:{ports[0]}",
            "127.0.0.1:4200": f"127.0.0.1:{ports[1]}",
        }
        environment = {
            "PATH": f"{postgres_programs()}{os.pathsep}{os.environ['PATH']}",
            # `~`, also of programs that ask for the user's entry in /etc/passwd.
            "HOME": str(root),
            "PGPASSFILE": str(root / ".pgpass"),
            "PREFECT_HOME": str(root / ".prefect"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        addresses = [f"http://127.0.0.1:{port}" for port in ports]
        team = Team(root, store, values, environment, *addresses)
        mlflow, prefect, _ = blocks("A team's server", values)
        (secrets,) = blocks("A team's server", values, language="ini")
        password = database.partition("@")[0].partition(":")[2]
        passwords = {"timbreflow.env": secrets, ".pgpass": f"*:*:*:team:{password}\n"}
        for name, text in passwords.items():
            (root / name).write_text(text)
            (root / name).chmod(0o600)
        try:
            team.start("mlflow", mlflow, f"{team.mlflow}/health")
            team.start("prefect", prefect, f"{team.prefect}/api/health")
            yield team
        finally:
            for name in list(team.ends):
                team.stop(name)


@pytest.fixture
def root(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A member's checkout, with the addresses of the page."""
    _, _, member = blocks("A team's server", team.values)
    exported = dict(re.findall(r"(\w+)=(http\S+)", member))
    assert exported == {"MLFLOW_TRACKING_URI": team.mlflow, "PREFECT_API_URL": f"{team.prefect}/api"}
    # A member has neither the keys of S3 nor the password.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", exported["MLFLOW_TRACKING_URI"])
    return tmp_path


def objects(team: Team) -> str:
    """What lies in the bucket."""
    with urllib.request.urlopen(f"{team.store}/timbreflow?list-type=2&max-keys=1000") as answer:
        return str(answer.read().decode())


def sorted_versions(root: Path) -> dict[str, list[str]]:
    """PostgreSQL gives the aliases of a version in any order."""
    return {version: sorted(aliases) for version, aliases in versions(root).items()}


def test_runs_models_and_decisions_outlive_the_server(team: Team, root: Path, bundles: dict[str, Path]) -> None:
    with open_run("train_glow", {"fit": {"steps": 3}}, root=root) as run:
        for step in (1, 2, 3):
            run.log(step, {"loss": 1.0 / step})
        (root / "note.txt").write_text("a note")
        run.artifact(root / "note.txt")
        run_id = run.run_id
    better, worse = bundles["glow"], variant(bundles["glow"], root / "worse", "worse")
    assert "version 1 registered" in register("glow", better, evaluation(15, 0.6), root=root)
    assert promote("glow", root=root).promoted
    assert "version 2 registered" in register("glow", worse, evaluation(16, 0.5), root=root)
    assert not promote("glow", root=root).promoted
    assert versions(root) == {"1": ["champion"], "2": ["challenger"]}
    kept = objects(team)
    assert "mlflow/" in kept and "weights.safetensors" in kept and "note.txt" in kept and "decision.md" in kept
    assert not list(root.rglob("mlruns"))
    team.stop("mlflow")
    mlflow, _, _ = blocks("A team's server", team.values)
    team.start("mlflow", mlflow, f"{team.mlflow}/health")
    client = connection.connect(root)
    assert [metric.value for metric in client.get_metric_history(run_id, "loss")] == [1.0, 1.0 / 2, 1.0 / 3]
    # The weights come through the server, byte for byte.
    found = resolve("glow", root=root)
    assert "the champion, version 1" in found.description
    assert (found.folder / "weights.safetensors").read_bytes() == (better / "weights.safetensors").read_bytes()


def test_weights_that_changed_in_the_store_are_refused(team: Team, root: Path, bundles: dict[str, Path]) -> None:
    noisy = root / "noisy"
    shutil.copytree(bundles["vqvae"], noisy)
    assert "registered" in register("vqvae", bundles["vqvae"], evaluation(15, 0.6), root=root)
    overwrite_with_noise(noisy)
    keys = re.findall(r"<Key>([^<]*)</Key>", objects(team))
    weights = [key for key in keys if key.endswith("bundle/weights.safetensors")]
    changed = 0
    names = {name.lower(): value for name, value in S3_KEY.items()}
    key = {name: names[name] for name in ("aws_access_key_id", "aws_secret_access_key")}
    store = boto3.client("s3", endpoint_url=team.store, region_name="us-east-1", **key)
    for name in weights:
        held = store.get_object(Bucket="timbreflow", Key=name)["Body"].read()
        if held == (bundles["vqvae"] / "weights.safetensors").read_bytes():
            data = (noisy / "weights.safetensors").read_bytes()
            store.put_object(Bucket="timbreflow", Key=name, Body=data)
            changed += 1
    assert changed == 1
    with pytest.raises(TimbreflowError, match="does not hold the weights that were evaluated"):
        promote("vqvae", root=root)


def flow_runs(team: Team) -> list[str]:
    """Ids of Prefect's flow runs."""
    request = urllib.request.Request(
        f"{team.prefect}/api/flow_runs/filter", b"{}", {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return sorted(run["id"] for run in json.load(answer))


def run_a_flow(team: Team) -> None:
    environment = team.environment | {"PREFECT_API_URL": f"{team.prefect}/api"}
    code = "from prefect import flow\n@flow(name='kept')\ndef kept(): pass\nkept()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)


def start_again(team: Team) -> None:
    mlflow, prefect, _ = blocks("A team's server", team.values)
    team.start("mlflow", mlflow, f"{team.mlflow}/health")
    team.start("prefect", prefect, f"{team.prefect}/api/health")


def test_restored_dumps_have_the_same_versions_and_flow_runs(team: Team, root: Path, bundles: dict[str, Path]) -> None:
    register("glow", bundles["glow"], evaluation(15, 0.6), root=root)
    run_a_flow(team)
    before = sorted_versions(root), flow_runs(team)
    assert all(before)
    _, _, dump, restore = blocks("Back up and restore", team.values)
    type_in(dump, root, team.environment)
    connection.connect(root).delete_registered_model("timbreflow-glow")
    run_a_flow(team)
    assert versions(root) == {} and flow_runs(team) != before[1]
    team.stop("mlflow")
    team.stop("prefect")
    type_in(restore, root, team.environment)
    start_again(team)
    assert (sorted_versions(root), flow_runs(team)) == before


def test_no_password_is_on_a_command_line(team: Team) -> None:
    """Of the servers and their workers; the page's blocks hold none either."""
    password = team.values["team:PASSWORD@db.lab:5432"].partition("@")[0].partition(":")[2]
    for process in psutil.process_iter(["cmdline"]):
        assert password not in " ".join(process.info["cmdline"] or [])
    for heading in ("A team's server", "Back up and restore"):
        assert not [block for block in blocks(heading) if "PASSWORD" in block or "SECRET" in block]
