"""The story of a team, from an empty registry to a transfer over HTTP, on tiny settings and on this machine alone.

    make ops-demo

In a copy of this checkout below /tmp, with servers of its own on free ports of 127.0.0.1: PostgreSQL and an S3-like
store, Prefect and MLflow on them, a worker that runs the deployments, promotions (one is refused), a rollback, data
pushed to the store and pulled by a second clone, a served model, and alerts to a webhook. All is stopped and removed at
the end; this checkout's data, registry and servers are not touched. `--stay` waits before that, so that you can look at
the pages, and `--pictures FOLDER` takes those of the documentation.

The tiny models are trained for a few steps: the demo shows that the parts work together, not a model of use.
"""

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import psutil
import soundfile
from ruamel.yaml import YAML

from benchmarks.services import (
    HOST,
    S3_KEY,
    answers,
    free_port,
    listening,
    object_store,
    postgres,
    receiver,
    running,
    wait_for,
)
from tests.tiny_params import dump, tiny
from timbreflow.config import preset_text
from timbreflow.errors import TimbreflowError

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "src",
    "flows",
    "released",
    "docs/sounds",
    "dvc.yaml",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    "pyproject.toml",
)
OF_THE_USER = ("AWS_", "DVC_", "GIT_", "MLFLOW_", "PREFECT_", "TIMBREFLOW_")
"""Variables that would lead to servers and stores other than the demo's."""
MODEL = "timbreflow-glow"
BUCKET = "timbreflow"
SOUNDS = ("violin-tune.ogg", "xylophone.ogg")
N_NOISE = 3
TAIL = 12
"""Lines shown of a command's output, at most; all of it is in the log."""


class Demo:
    """A copy of the checkout, its servers, and the commands that are typed in it."""

    def __init__(self, place: Path, ends: ExitStack) -> None:
        self.root, self.ends = place / "checkout", ends
        self.log = place / "log"
        self.began = time.monotonic()
        self.step_number = 0
        self.servers: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.alerts: list[str] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_THE_USER)}
        self.environment = (
            kept
            | S3_KEY
            | {
                "PATH": f"{self.root / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "PREFECT_HOME": str(self.root / ".prefect"),
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "DO_NOT_TRACK": "1",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "no_proxy": HOST,
                "NO_PROXY": HOST,
                "COLUMNS": "120",
                # MLflow leaves a lock file here for each of its processes.
                "TMPDIR": tempfile.mkdtemp(prefix="tmp-", dir=place),
                # No process has to start for a shard.
                "TIMBREFLOW_RUNNER": "threads",
            }
        )

    def step(self, title: str, look: str = "") -> None:
        """Say what comes, and what to look at."""
        self.step_number += 1
        print(f"\n[{time.monotonic() - self.began:3.0f} s] {self.step_number}. {title}", flush=True)
        if look:
            print(f"      look at: {look}", flush=True)

    def run(self, *command: str, code: int = 0, at: Path | None = None, show: int = TAIL) -> str:
        """Type a command in the copy; returns its output.

        Raises:
            TimbreflowError: its exit code is another one than expected.
        """
        print(f"      $ {' '.join(command)}", flush=True)
        done = subprocess.run(
            command,
            cwd=at or self.root,
            env=self.environment | code_of(at or self.root),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}\nexit code {done.returncode}\n\n")
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        if done.returncode != code:
            raise TimbreflowError(
                f"`{' '.join(command)}` ended with {done.returncode}, not {code}:\n" + "\n".join(lines[-40:])
            )
        for line in lines[-show:] if show else []:
            print(f"        {line[:160]}", flush=True)
        return done.stdout

    def start(self, name: str, *command: str, **variables: str) -> None:
        """Start a server that is stopped at the end."""
        print(f"      $ {' '.join(command)} &", flush=True)
        log = self.log.with_name(f"{name}.log")
        environment = self.environment | code_of(self.root)
        process = self.ends.enter_context(running(command, log, environment | variables, cwd=self.root))
        self.processes[name] = process

    def wait(self, name: str, url: str) -> None:
        """Until a server that was started answers.

        Raises:
            TimbreflowError: it does not.
        """
        wait_for(lambda: answers(url), self.processes[name], name, self.log.with_name(f"{name}.log"))

    def git(self, *arguments: str) -> None:
        """Run git quietly, as somebody without a name of their own."""
        who = ["-c", "user.name=ops-demo", "-c", "user.email=ops-demo@localhost"]
        subprocess.run(["git", *who, *arguments], cwd=self.root, env=self.environment, check=True)

    def ask(self, url: str, body: Any = None) -> Any:
        """JSON that a server answers; a body makes it a POST."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=300) as response:
            return json.load(response)

    def champion(self) -> str:
        """Version that has the alias champion."""
        url = f"{self.servers['MLflow']}/api/2.0/mlflow/registered-models/alias?name={MODEL}&alias=champion"
        return str(self.ask(url)["model_version"]["version"])

    def flow_runs(self) -> list[dict[str, Any]]:
        """All flow runs, the oldest first."""
        found: list[dict[str, Any]] = self.ask(f"{self.servers['Prefect']}/api/flow_runs/filter", {})
        return sorted(found, key=lambda run: str(run["start_time"]))


def code_of(root: Path) -> dict[str, str]:
    """Variables with which commands run a checkout's own code."""
    return {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "TIMBREFLOW_ROOT": str(root)}


def main() -> int:
    """Run all steps; exit code 0 where each did what it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the pages; needs chromium-driver")
    parser.add_argument("--stay", action="store_true", help="wait for Enter before everything is stopped")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Whoever ends the demo ends its servers too.
        signal.signal(number, signal.default_int_handler)
    place = Path(tempfile.mkdtemp(prefix="timbreflow-ops-demo-"))
    try:
        with ExitStack() as ends:
            demo = Demo(place, ends)
            for step in STEPS:
                step(demo)
            if options.pictures is not None:
                take_pictures(demo, options.pictures)
            if options.stay:
                input("\nPress Enter to stop all of it.")
        left = [name for name, process in demo.processes.items() if process.poll() is None]
        if left:
            raise TimbreflowError(f"These processes still run: {left}.")
    except TimbreflowError as error:
        print(f"\nerror: {error}\nEvery command's output is in {place}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; everything was stopped.", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
        return 130
    shutil.rmtree(place)
    print(f"\nops-demo passed in {time.monotonic() - demo.began:.0f} s; everything was stopped and {place} removed.")
    return 0


def copy(demo: Demo) -> None:
    """The checkout in a folder of its own, with tiny parameters and without a released Glow."""
    demo.step("A copy of this checkout with tiny parameters", str(demo.root))
    for name in COPIED:
        source, target = ROOT / name, demo.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # It arrives later, so that the first champion is the team's own.
    shutil.move(demo.root / "released" / "glow", demo.root.parent / "glow")
    values = tiny(preset_text("default"))
    values["monitor"]["min_records"] = 1 + N_NOISE
    values["render_triples"]["triples"] |= {"test": 3, "test_seen": 3}
    values["evaluate"]["systems"] = ["content_copied", "style_copied", "vqvae", "glow"]
    (demo.root / "params.yaml").write_text(dump(values), encoding="utf-8")
    (demo.root / ".venv").symlink_to(sys.prefix)
    demo.git("init", "-q", ".")
    # git's pattern .venv in .gitignore is for folders and links alike.
    demo.git("add", "-A")
    demo.git("commit", "-q", "-m", "A copy for the demo")


def services(demo: Demo) -> None:
    """PostgreSQL, S3, Prefect and MLflow."""
    demo.step("Servers: PostgreSQL and an S3-compatible store, Prefect and MLflow on them")
    prefect, mlflow = free_port(), free_port()
    address = demo.ends.enter_context(postgres("prefect", "mlflow"))
    store = demo.ends.enter_context(object_store(BUCKET))
    demo.environment |= {"MLFLOW_S3_ENDPOINT_URL": store}
    demo.servers |= {"PostgreSQL": address.partition("@")[2], "S3": store}
    demo.servers |= {"Prefect": f"http://{HOST}:{prefect}", "MLflow": f"http://{HOST}:{mlflow}"}
    demo.start(
        "prefect",
        *("prefect", "server", "start", "--host", HOST, "--port", str(prefect)),
        PREFECT_SERVER_DATABASE_CONNECTION_URL=f"postgresql+asyncpg://{address}/prefect",
        # What its pages ask, and what alerts link to.
        PREFECT_SERVER_UI_API_URL=f"{demo.servers['Prefect']}/api",
        PREFECT_UI_URL=demo.servers["Prefect"],
    )
    demo.start(
        "mlflow",
        *("mlflow", "server", "--host", HOST, "--port", str(mlflow), "--workers", "1"),
        *("--artifacts-destination", f"s3://{BUCKET}/mlflow"),
        MLFLOW_BACKEND_STORE_URI=f"postgresql+pg8000://{address}/mlflow",
    )
    demo.environment |= {
        "PREFECT_API_URL": f"http://{HOST}:{prefect}/api",
        "MLFLOW_TRACKING_URI": demo.servers["MLflow"],
    }
    demo.wait("prefect", f"{demo.servers['Prefect']}/api/health")
    demo.wait("mlflow", f"{demo.servers['MLflow']}/health")
    for name, url in demo.servers.items():
        print(f"      {name:10} {url}", flush=True)


def deploy(demo: Demo) -> None:
    """Work pool, one training at a time, deployments, alerts, worker."""
    demo.step("Work pool, deployments, alerts and a worker", f"{demo.servers['Prefect']}/deployments, and /automations")
    demo.run("prefect", "work-pool", "create", "timbreflow", "--type", "process", show=0)
    demo.run("prefect", "work-queue", "create", "gpu", "--pool", "timbreflow", "--limit", "1", show=0)
    demo.run("prefect", "deploy", "--prefect-file", "flows/prefect.yaml", "--all", show=0)
    webhook, demo.alerts = demo.ends.enter_context(receiver())
    demo.servers["webhook"] = webhook
    demo.environment |= {"TIMBREFLOW_ALERT_URL": webhook}
    demo.run("python", "-m", "flows.alerts")
    demo.start("worker", "prefect", "worker", "start", "--pool", "timbreflow")


def pipeline(demo: Demo) -> None:
    """The pipeline through the worker, then its lock in git and its data in the store."""
    demo.step("The pipeline, run by the worker", f"{demo.servers['Prefect']}/runs and {demo.servers['MLflow']}")
    demo.run("prefect", "deployment", "run", "pipeline/pipeline", "--watch", show=3)
    demo.git("add", "-A")
    demo.git("commit", "-q", "-m", "dvc.lock and metrics of the first run")
    demo.run("timbreflow", "lineage", f"models:/{MODEL}/1")


def first_champion(demo: Demo) -> None:
    """The trained Glow becomes champion by the deployment."""
    demo.step("The first promotion, by the deployment: there is nothing to hold it against but the limits")
    demo.run("prefect", "deployment", "run", "promote/promote", "--param", "name=glow", "--watch", show=2)
    expect(demo.champion(), "1")


def better_champion(demo: Demo) -> None:
    """Released weights are registered, measured on the same clips, and promoted."""
    demo.step("The released weights arrive and pass the gate", f"{demo.servers['MLflow']}/#/models/{MODEL}")
    shutil.move(demo.root.parent / "glow", demo.root / "released" / "glow")
    demo.git("add", "-A")
    demo.git("commit", "-q", "-m", "Released Glow")
    demo.run("timbreflow", "register", "--released", show=3)
    demo.run("timbreflow", "promote", "glow")
    expect(demo.champion(), "2")


def refusal(demo: Demo) -> None:
    """The trained Glow is a challenger again, and is refused with both figures."""
    demo.step("The tiny model tries again and is refused: exit code 1, both figures, reasons kept with the version")
    demo.run("timbreflow", "register", show=3)
    demo.run("timbreflow", "promote", "glow", code=1)
    demo.run("prefect", "deployment", "run", "promote/promote", "--param", "name=glow", "--watch", code=1, show=2)
    expect(demo.champion(), "2")
    expect_alert(demo, "No promotion: ")


def rollback(demo: Demo) -> None:
    """Back and forth."""
    demo.step("Rollback: the champion before is the champion again")
    demo.run("timbreflow", "promote", "glow", "--rollback")
    expect(demo.champion(), "1")


def fail(demo: Demo) -> None:
    """A run that is to push where no remote is named yet fails at its start, and the webhook is told."""
    demo.run("prefect", "deployment", "run", "pipeline/pipeline", "--param", "push=true", "--watch", code=1, show=2)
    expect_alert(demo, "The pipeline failed: ")


def push_and_clone(demo: Demo) -> None:
    """A colleague's clone pulls everything and runs nothing."""
    demo.step(
        "Data to the S3 remote, without which a run that is to push fails; a second clone pulls it, runs no stage"
    )
    fail(demo)
    demo.run("dvc", "remote", "add", "--default", "store", f"s3://{BUCKET}/dvc", show=1)
    demo.run("dvc", "remote", "modify", "store", "endpointurl", demo.servers["S3"], show=0)
    demo.git("commit", "-aqm", "DVC remote")
    demo.run("dvc", "push", show=1)
    clone = demo.root.parent / "clone"
    demo.git("clone", "-q", str(demo.root), str(clone))
    (clone / ".venv").symlink_to(sys.prefix)
    output = demo.run("dvc", "repro", "--pull", at=clone, show=2)
    expect([line for line in output.splitlines() if line.startswith("Running stage")], [])
    same = (clone / "data" / "models" / "glow" / "weights.safetensors").read_bytes()
    expect(same == (demo.root / "data" / "models" / "glow" / "weights.safetensors").read_bytes(), True)


def serve(demo: Demo) -> None:
    """The champion behind HTTP: a transfer, and a few of noise, which no training had."""
    demo.step("The champion is served, and transfers sounds")
    port = free_port()
    demo.servers["model"] = f"http://{HOST}:{port}"
    command = ("timbreflow", "serve", "--model", f"models:/{MODEL}@champion", "--host", HOST, "--port", str(port))
    demo.start("model", *command, "--record", "data/served")
    demo.wait("model", f"http://{HOST}:{port}/readyz")
    noise = io.BytesIO()
    soundfile.write(noise, np.random.default_rng(0).normal(0, 0.1, 16000), 16000, format="WAV")
    content, style = ((ROOT / "docs" / "sounds" / name).read_bytes() for name in SOUNDS)
    for each in (style, *([noise.getvalue()] * N_NOISE)):
        answer = httpx.post(
            f"http://{HOST}:{port}/transfer", files={"content": content, "style": each}, timeout=300, trust_env=False
        )
        expect(answer.status_code, 200)
        check_length(answer.content)


def check_length(sound: bytes) -> None:
    """What came back is as long as the content, and is not silent."""
    content = soundfile.info(ROOT / "docs" / "sounds" / SOUNDS[0]).duration
    samples, rate = soundfile.read(io.BytesIO(sound))
    expect((round(len(samples) / rate, 1), bool(np.abs(samples).max() > 0)), (round(content, 1), True))
    print(f"      {len(samples) / rate:.1f} s of sound came back", flush=True)


def _text(body: str) -> str:
    """What a webhook's body says."""
    return str(json.loads(body)["text"])


def expect_alert(demo: Demo, begins: str) -> None:
    """Show what the webhook was sent.

    Raises:
        TimbreflowError: nothing that begins like this came within a minute.
    """
    deadline = time.monotonic() + 60
    page = f"{demo.servers['Prefect']}/runs/flow-run/"
    while not (found := [text for text in map(_text, demo.alerts) if text.startswith(begins) and page in text]):
        if time.monotonic() > deadline:
            raise TimbreflowError(f"The webhook was sent {demo.alerts}, but nothing that begins with {begins!r}.")
        time.sleep(0.5)
    print(f"      the webhook was sent: {found[-1]}", flush=True)


def monitor(demo: Demo) -> None:
    """The noise raises an alert."""
    demo.step(
        "Monitoring: most of what was served is unlike the training, so that a check alerts and the exit code is 1"
    )
    demo.run("timbreflow", "monitor", "data/served", code=1)
    demo.run("prefect", "deployment", "run", "monitor/monitor-nightly", "--watch", code=1, show=2)
    expect_alert(demo, "Monitoring: ")


def summary(demo: Demo) -> None:
    """Addresses and ids; every port is one of this machine's own."""
    runs = demo.flow_runs()
    # A promotion was refused, there was nowhere to push, and what is served has drifted.
    expect([run["name"] for run in runs if run["state_type"] != "COMPLETED"], ["promote-glow", "pipeline", "monitor"])
    parent = next(run["id"] for run in runs if run["name"] == "pipeline")
    children = demo.ask(
        f"{demo.servers['Prefect']}/api/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [parent]}}}
    )
    stages = YAML(typ="safe").load((demo.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    expect(len(children), sum(len(stage.get("foreach", "1")) for stage in stages))
    ports = listening([psutil.Process()])
    expect([port for port in ports if not port.startswith(f"{HOST}:")], [])
    demo.step(f"What was shown; all {len(ports)} open ports are on {HOST}")
    for name, url in demo.servers.items():
        print(f"      {name:10} {url}")
    print(f"      {len(runs)} flow runs, all completed but the refused promotion, the push and the alert")
    print(f"      {len(children)} of them are children of {demo.servers['Prefect']}/runs/flow-run/{parent}")
    versions = demo.ask(f"{demo.servers['MLflow']}/api/2.0/mlflow/model-versions/search?filter=name%3D%27{MODEL}%27")
    for found in sorted(versions["model_versions"], key=lambda version: int(version["version"])):
        tags = {tag["key"]: tag["value"] for tag in found["tags"]}
        alias = ", champion" if found["version"] == demo.champion() else ""
        weights = tags["weights_sha256"][:12]
        print(f"      {MODEL} version {found['version']}{alias}: weights {weights}, {tags['decision']}")


def take_pictures(demo: Demo, folder: Path) -> None:
    """The pipeline with its children, a picture among the artifacts, a failed run; a comparison and a version."""
    from benchmarks.screenshots import Page, photograph

    prefect, mlflow = demo.servers["Prefect"], demo.servers["MLflow"]
    runs = demo.flow_runs()
    refused = next(run for run in runs if run["state_type"] != "COMPLETED")
    parent = next(run for run in runs if run["name"] == "pipeline")
    image = {"artifacts": {"type": {"any_": ["image"]}, "key": {"like_": "train-glow"}}}
    artifact = demo.ask(f"{prefect}/api/artifacts/filter", image)[0]
    # MLflow opens in its mode for language models otherwise.
    training = "workflowType=machine_learning"
    trainings = quote("attributes.run_name LIKE 'train_%'")
    pages = {
        "prefect-pipeline": Page(f"{prefect}/runs/flow-run/{parent['id']}", "register_models", click="Subflow Runs"),
        "prefect-artifact": Page(f"{prefect}/artifacts/artifact/{artifact['id']}", "train_glow"),
        "prefect-failed": Page(f"{prefect}/runs/flow-run/{refused['id']}", "State Message", click="Details"),
        "mlflow-comparison": Page(
            f"{mlflow}/#/experiments/1/runs?{training}&compareRunsMode=CHART&searchFilter={trainings}", "train_glow"
        ),
        "mlflow-version": Page(f"{mlflow}/#/models/{MODEL}/versions/2?{training}", "weights_sha256"),
    }
    for picture in photograph(pages, folder):
        print(f"      {picture}", flush=True)


def expect(found: Any, wanted: Any) -> None:
    """Compare.

    Raises:
        TimbreflowError: they differ.
    """
    if found != wanted:
        raise TimbreflowError(f"{found!r} was found where {wanted!r} was expected.")


STEPS: Sequence[Callable[[Demo], None]] = (
    copy,
    services,
    deploy,
    pipeline,
    first_champion,
    better_champion,
    refusal,
    rollback,
    push_and_clone,
    serve,
    monitor,
    summary,
)

if __name__ == "__main__":
    sys.exit(main())
