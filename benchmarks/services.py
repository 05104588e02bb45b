"""A team's services on 127.0.0.1, for the demonstration and the tests: PostgreSQL, and S3 by moto.

PostgreSQL is Debian's package postgresql. Its data lie in a temporary folder, moto's in memory: both are gone at the
end, and the machine's own servers are not touched.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from timbreflow.errors import TimbreflowError

HOST = "127.0.0.1"
STARTUP_SECONDS = 600
"""A first start creates the databases, which takes minutes on a busy machine."""
GRACE_SECONDS = 15
S3_KEY = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_DEFAULT_REGION": "us-east-1"}
"""moto takes any key; without one the clients of S3 would look for the user's own."""


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a server answers with status 200; never through a proxy."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=3) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def wait_for(ready: Callable[[], bool], process: "subprocess.Popen[Any]", name: str, log: Path) -> None:
    """Until a server is ready.

    Raises:
        TimbreflowError: it ended, or takes too long; with the end of its log.
    """
    deadline = time.monotonic() + STARTUP_SECONDS
    while not ready():
        late = time.monotonic() > deadline
        if late or process.poll() is not None:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
            what = f"did not answer in {STARTUP_SECONDS} s" if late else "stopped while starting"
            raise TimbreflowError(f"{name} {what}; the end of {log}:\n{tail}")
        time.sleep(0.3)


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str], **options: Any
) -> "Iterator[subprocess.Popen[bytes]]":
    """A server with its output in a file; in the end it is stopped with all that it started."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: "subprocess.Popen[Any]") -> None:
    """Ask a process to end, and kill what is left of it and its children after a while."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process.pid)
        family = [leader, *leader.children(recursive=True)]
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    for left in psutil.wait_procs(family, timeout=1)[1]:
        with suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait()


def postgres_programs() -> Path | None:
    """Folder of PostgreSQL's programs, the newest that is installed; None: there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in installed), key=lambda path: float(path.parent.name), default=None)


@contextmanager
def postgres(*databases: str) -> Iterator[str]:
    """A PostgreSQL server with empty databases; yields USER:PASSWORD@HOST:PORT.

    Raises:
        TimbreflowError: PostgreSQL is not installed, or does not start.
    """
    programs = postgres_programs()
    if programs is None:
        raise TimbreflowError("PostgreSQL is not installed: sudo apt-get install postgresql")
    password, port = secrets.token_hex(8), free_port()
    # PostgreSQL refuses to run as root; Debian's package makes a user for it, who must be able to enter the folder.
    other: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="timbreflow-postgres-", dir="/tmp"))
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGPASSWORD": password}
    try:
        (folder / "password").write_text(password, encoding="utf-8")
        if other:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        make = ["initdb", "--pgdata", "data", "--username", "team", "--auth", "scram-sha-256", "--pwfile", "password"]
        _run(programs, [*make, "--encoding", "UTF8", "--no-sync"], folder, environment, other)
        server = ["-D", "data", "-h", HOST, "-p", str(port), "-k", str(folder), "-F"]
        with running([programs / "postgres", *server], folder / "log", environment, cwd=folder, **other) as process:
            place = ["--host", HOST, "--port", str(port), "--username", "team"]
            ready: list[str | Path] = [programs / "pg_isready", "--quiet", *place[:4]]
            wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, process, "PostgreSQL", folder / "log")
            for name in databases:
                _run(programs, ["createdb", *place, name], folder, environment, other)
            yield f"team:{password}@{HOST}:{port}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(
    programs: Path, command: Sequence[str], folder: Path, environment: Mapping[str, str], other: Mapping[str, Any]
) -> None:
    done = subprocess.run(
        [programs / command[0], *command[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **other,
    )
    if done.returncode:
        raise TimbreflowError(f"{command[0]} failed: {done.stderr.strip()}")


@contextmanager
def object_store(bucket: str) -> Iterator[str]:
    """An S3-compatible server with one bucket; yields its address.

    Raises:
        TimbreflowError: moto is not installed, or does not start.
    """
    program = Path(sys.executable).parent / "moto_server"
    if not program.is_file():
        raise TimbreflowError("moto is not installed: .venv/bin/pip install -c requirements.lock -e '.[dev]'")
    port = free_port()
    url = f"http://{HOST}:{port}"
    with tempfile.TemporaryDirectory(prefix="timbreflow-s3-") as folder:
        log = Path(folder) / "log"
        with running([program, "-H", HOST, "-p", str(port)], log, {"PATH": os.environ["PATH"]}) as process:
            wait_for(lambda: answers(f"{url}/moto-api/"), process, "moto", log)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(urllib.request.Request(f"{url}/{bucket}", method="PUT")).close()
            yield url


def listening(processes: Sequence[psutil.Process]) -> set[str]:
    """HOST:PORT of every TCP port on which processes or their children listen."""
    found: set[str] = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for member in [process, *process.children(recursive=True)]:
                with suppress(psutil.Error):
                    found |= {
                        f"{each.laddr.ip}:{each.laddr.port}"
                        for each in member.net_connections(kind="tcp")
                        if each.status == psutil.CONN_LISTEN
                    }
    return found


@contextmanager
def receiver() -> Iterator[tuple[str, list[str]]]:
    """A chat's webhook: its address, and the bodies that were sent to it, as they come."""
    bodies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{HOST}:{server.server_port}/", bodies
    finally:
        server.shutdown()
        server.server_close()
