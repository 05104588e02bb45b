"""A checkout whose stages start at once, and what can go wrong around them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkout import ROOT, Checkout, free_port
from ruamel.yaml import YAML

from timbreflow.files import sha256_file

HERE = Path(__file__).resolve().parent
STAGES = {
    "collect_midi": "collect_midi",
    "render_triples": "render_triples",
    "extract_mels": "extract_mels",
    "validate_data": "validate_data",
    "train_timbre_metric": "train_timbre_metric",
    "train_vqvae@paper": "train_vqvae paper",
    "train_vqvae": "train_vqvae base",
    "train_glow": "train_glow",
    "train_refiner": "train_refiner",
    "train_vocoder": "train_vocoder",
    "evaluate": "evaluate",
    "report": "report",
    "register_models": "register_models",
}
"""Stage to its flow and argument, in the order in which one needs the others."""
IMPORTED = [
    "mlflow.tracking",
    "flows.pipeline",
    "great_expectations",
    "librosa",
    "numba",
    "symusic",
    "timbreflow.inference.transfer",
    "timbreflow.training.fit",
    *(f"timbreflow.stages.{stage.partition(' ')[0]}" for stage in STAGES.values()),
    "timbreflow.stages.collect_audio",
    "timbreflow.commands.listening",
    "timbreflow.commands.serving",
    "timbreflow.app.serving.server",
    "timbreflow.monitoring.recorder",
]
CHANGING = {"run.json", "timing.json", "data_docs"}
"""Outputs that hold ids and times."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: its exit code, or minus the signal that killed it.
        text: what it printed.
    """

    code: int
    text: str

    @property
    def errors(self) -> list[str]:
        """Its sentences to people who must do something."""
        return [line for line in self.text.splitlines() if line.startswith("error: ")]


@dataclass
class Running:
    """A command that runs."""

    pid: int
    _connection: socket.socket
    _output: Path

    def signal(self, number: int) -> None:
        """As a terminal does: to it and all that it started."""
        os.killpg(self.pid, number)

    @property
    def text(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def wait(self, timeout: float = 600) -> Ended:
        self._connection.settimeout(timeout)
        try:
            answer = self._connection.recv(100)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"no end in {timeout} s: {self.text[-3000:]}") from None
        finally:
            self._connection.close()
        return Ended(int(answer), self.text)


@dataclass
class House:
    """A tiny checkout with a Prefect server, reached through a gate, in which every stage has run once.

    Args:
        root: folder that does not exist yet.
        environment: of every command, in place of the plain one.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checkout = Checkout(self.root)
        # Linked, so that what Python and numba have compiled serves again.
        shutil.rmtree(self.root / "src")
        (self.root / "src").symlink_to(ROOT / "src")
        (self.root / "home").mkdir()
        self._scratch = Path(tempfile.mkdtemp(prefix="house-"))
        values = self.checkout.values()
        values["train_vocoder"] |= {"comparison_clips": 1, "validation_crops": 2}
        values["evaluate"] |= {"sets": ["test"], "max_triples": 2}
        values["evaluate"]["systems"] = ["content_copied", "vqvae", "glow", "oracle"]
        self.checkout.write(values)
        plain = {"HOME": str(self.root / "home"), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.checkout.environment |= plain | {"TIMBREFLOW_RUNNER": "threads", "TIMBREFLOW_WORKERS": "2"}
        self.checkout.environment |= {"PYTHONPATH": f"{self.root / 'src'}:{self.root}", **self.environment}
        self.unbroken: dict[str, dict[str, str]] = {}
        self.events: dict[str, int] = {}
        self._zygote: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start the server and the process that forks."""
        script = "import pathlib; from timbreflow.app import servers; servers.STARTUP_SECONDS = 900"
        script += "; servers.start(pathlib.Path.cwd(), [servers.PREFECT])"
        started = self.checkout.run("python", "-c", script)
        assert started.returncode == 0, started.stdout
        self.gate = Gate(int(self.checkout.environment["TIMBREFLOW_PREFECT_PORT"]), self._scratch / "gone")
        environment = self.checkout.environment | {"PREFECT_API_URL": self.gate.url}
        self.has_clock = (shim := clock_library(self._scratch)) is not None
        if shim is not None:
            environment["LD_PRELOAD"] = str(shim)
        self._socket = self._scratch / "socket"
        self._log = open(self._scratch / "zygote.log", "wb")  # noqa: SIM115
        self._zygote = subprocess.Popen(
            [self.root / ".venv" / "bin" / "python", HERE / "zygote.py", self._socket, *IMPORTED],
            cwd=self.root,
            env=environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 900
        while not self._socket.exists():
            assert self._zygote.poll() is None and time.monotonic() < deadline, self._log_text()
            time.sleep(0.1)

    def furnish(self) -> None:
        """Run every stage once, and keep what it made."""
        count = self._scratch / "count"
        for stage in STAGES:
            ended = self.stage(stage, count=count)
            assert ended.code == 0, f"{stage}: {ended.text[-3000:]}"
            self.unbroken[stage], self.events[stage] = self.digests(stage), int(count.read_text())
        for name in ("data", "results"):
            shutil.copytree(self.root / name, self._scratch / name)

    def tidy(self) -> None:
        """Everything as it was after `furnish`."""
        self.gate.closed_by.unlink(missing_ok=True)
        self.gate.delay = 0.0
        shutil.rmtree(self.root / ".scratch", ignore_errors=True)
        shutil.rmtree(self.root / ".dvc" / "cache", ignore_errors=True)
        (self.root / "dvc.lock").unlink(missing_ok=True)
        for name in ("data", "results"):
            shutil.rmtree(self.root / name)
            shutil.copytree(self._scratch / name, self.root / name)

    def close(self) -> None:
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
            self.gate.close()
        self.checkout.run("python", "-m", "timbreflow.app.servers")
        shutil.rmtree(self._scratch)

    def _log_text(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-3000:]

    def start(
        self,
        *command: str,
        fault: dict[str, Any] | None = None,
        environment: dict[str, str | None] | None = None,
        watch: list[Path] | None = None,
        count: Path | None = None,
    ) -> Running:
        """Start a module with arguments; see zygote.py for faults."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._socket))
        output = Path(tempfile.mkstemp(dir=self._scratch, suffix=".log")[1])
        request = {
            "command": command,
            "folder": str(self.root),
            "environment": environment or {},
            "output": str(output),
            "watch": [str(place) for place in watch or [self.root / name for name in ("data", "results", ".scratch")]],
            "fault": fault,
            "count": str(count) if count else None,
        }
        connection.sendall(json.dumps(request).encode() + b"\n")
        pid = b""
        while not pid.endswith(b"\n"):
            pid += connection.recv(1)
        return Running(int(pid), connection, output)

    def run(self, *command: str, timeout: float = 600, **options: Any) -> Ended:
        return self.start(*command, **options).wait(timeout)

    def stage(self, stage: str, **options: Any) -> Ended:
        flow, *argument = STAGES[stage].split()
        return self.run(f"flows.{flow}", *argument, **options)

    def start_stage(self, stage: str, **options: Any) -> Running:
        flow, *argument = STAGES[stage].split()
        return self.start(f"flows.{flow}", *argument, **options)

    def dvc(self, *words: str) -> None:
        done = self.checkout.run("dvc", *words)
        assert done.returncode == 0, done.stdout[-3000:]

    def results(self, stage: str) -> Path:
        name, _, variant = stage.partition("@")
        return self.root / "results" / name / (variant or ("base" if name == "train_vqvae" else ""))

    def outputs(self, stage: str) -> list[Path]:
        """What dvc.yaml says that it writes."""
        name, _, variant = stage.partition("@")
        written = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][name]
        if "foreach" in written:
            key = variant or "base"
            text = json.dumps(written["do"]).replace("${key}", key).replace("${item}", written["foreach"][key])
            written = json.loads(text)
        kept = [*written.get("outs", []), *written.get("metrics", [])]
        return [self.root / (out if isinstance(out, str) else next(iter(out))) for out in kept]

    def digests(self, stage: str) -> dict[str, str]:
        """sha256 of every file that a stage has written, but for those that hold times."""
        found: dict[str, str] = {}
        for out in self.outputs(stage):
            if out.name not in CHANGING:
                files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
                found |= {str(path.relative_to(self.root)): sha256_file(path) for path in files if path.exists()}
        return found

    def leftovers(self) -> list[Path]:
        """Hidden files beside outputs, which a writer has left."""
        folders = [self.root / "data", self.root / "results"]
        return [path for folder in folders for path in folder.rglob(".*") if path.name not in (".gitignore",)]


class Gate:
    """A way to a server that may be slow, or end where a file appears.

    Args:
        port: of the server.
        closed_by: while this file exists, nobody gets through.
    """

    def __init__(self, port: int, closed_by: Path) -> None:
        self._port, self.closed_by = port, closed_by
        self.delay = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        self.passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inside = self._listener.accept()[0]
                if self.closed_by.exists():
                    inside.close()
                    continue
                outside = socket.create_connection(("127.0.0.1", self._port))
                for pair in ((inside, outside, 0.0), (outside, inside, None)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, delay: float | None) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and not self.closed_by.exists():
                self.passed += 1
                time.sleep(self.delay if delay is None else delay)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def clock_library(folder: Path) -> Path | None:
    """A wall clock that a fault can set; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    built = folder / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", built, HERE / "clock.c"], check=True)
    return built


__all__ = ["STAGES", "Ended", "Gate", "House", "Running", "free_port"]
