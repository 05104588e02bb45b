"""Start, find and stop this checkout's Prefect and MLflow servers, on 127.0.0.1 only.

`.run/<name>.json` holds the process id and port of this checkout's server, so that two checkouts on one machine do not
show their runs in each other's pages. Neither prefect nor mlflow is imported here.
"""

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from timbreflow.errors import TimbreflowError
from timbreflow.files import write_json
from timbreflow.network import bypass_proxy_for_loopback, without_password
from timbreflow.tracking.connection import home_of, tracking_uri

HOST = "127.0.0.1"
STARTUP_SECONDS = 180
"""A first start creates the databases, which takes most of a minute on a busy machine."""


@dataclass(frozen=True)
class Server:
    """One kind of server: name, port, and the path of its health check."""

    name: str
    default_port: int
    health: str

    @property
    def port_variable(self) -> str:
        """Environment variable that chooses the port."""
        return f"TIMBREFLOW_{self.name.upper()}_PORT"

    @property
    def wanted_port(self) -> int:
        """Port from the environment, else the default.

        Raises:
            TimbreflowError: the variable does not hold a port number.
        """
        text = os.environ.get(self.port_variable, str(self.default_port))
        if not text.isdecimal() or not 0 < int(text) < 65536:
            raise TimbreflowError(f"{self.port_variable}={text} is not a port; set it to a number from 1 to 65535.")
        return int(text)


PREFECT = Server(name="prefect", default_port=4200, health="/api/health")
MLFLOW = Server(name="mlflow", default_port=5000, health="/health")
SERVERS = (PREFECT, MLFLOW)


OF_ELSEWHERE = re.compile(
    r"PREFECT_(?!_|CLIENT_|CLOUD_|LOGGING_|API_(URL|KEY|AUTH_STRING|SSL_CERT_FILE|TLS_INSECURE_SKIP_VERIFY)$)"
)
"""Prefect's variables that are ignored, since they may be another project's (database, home, profile): all but those
that reach the server of PREFECT_API_URL, those of logging, and those that Prefect sets itself."""


def prefect_environment(root: Path) -> dict[str, str]:
    """This process's environment with Prefect's settings of this checkout, to be set before prefect is imported.

    A PREFECT_API_URL of the user stays, so that a lab's own server is used.
    """
    bypass_proxy_for_loopback()
    kept = {name: value for name, value in os.environ.items() if not OF_ELSEWHERE.match(name)}
    url = kept.pop("PREFECT_API_URL", "").rstrip("/") or running_url(PREFECT, root)
    if url:
        kept["PREFECT_API_URL"] = api = url if "/api" in urlsplit(url).path else f"{url}/api"
        if urlsplit(api).password:
            # Prefect logs the page of every run.
            kept["PREFECT_UI_URL"] = without_password(api).replace("***@", "").removesuffix("/api")
    return kept | {
        "PREFECT_HOME": str(home_of(root) / ".prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Messages of stages, such as the time that is left of a training, go to the flow run's log.
        "PREFECT_LOGGING_EXTRA_LOGGERS": "timbreflow",
        "DO_NOT_TRACK": "1",
    }


def running_url(server: Server, root: Path) -> str | None:
    """Address of this checkout's server, or None when it does not answer.

    An MLflow server that MLFLOW_TRACKING_URI names takes the place of the checkout's own.
    """
    if server is MLFLOW and (elsewhere := _remote_mlflow()) is not None:
        return elsewhere if _healthy(elsewhere + server.health) else None
    state = _state(server, root)
    if state is None or not _alive(state["pid"]):
        return None
    url = f"http://{HOST}:{state['port']}"
    return url if _healthy(url + server.health) else None


def start(root: Path, servers: Sequence[Server] = SERVERS) -> dict[str, str]:
    """Start the servers, or some of them, that do not run yet, and wait until they answer.

    Where MLFLOW_TRACKING_URI is an address (http or https), that server is used and none is started for MLflow.

    Returns:
        Address of each server by name.

    Raises:
        TimbreflowError: a port is taken by another program, or a server dies or does not answer in time; what this
            call had started is stopped again.
    """
    remote = {MLFLOW: elsewhere} if (elsewhere := _remote_mlflow()) is not None else {}
    own = [server for server in servers if server not in remote]
    missing = [server for server in own if running_url(server, root) is None]
    for server in missing:
        _require_free_port(server)
    processes: dict[Server, subprocess.Popen[bytes]] = {}
    try:
        for server in missing:
            processes[server] = _spawn(server, root)
        _wait(processes, root)
    except BaseException:
        stop(root, tuple(processes))
        raise
    return {server.name: without_password(remote.get(server) or str(running_url(server, root))) for server in servers}


def _wait(processes: "Mapping[Server, subprocess.Popen[bytes]]", root: Path) -> None:
    """Until all of them answer.

    One that dies is started once more: a flow's temporary server may have been making the same new database.
    """
    deadline = time.monotonic() + STARTUP_SECONDS
    for server, first in processes.items():
        log = root / ".run" / f"{server.name}.log"
        process, again = first, False
        while running_url(server, root) is None:
            if process.poll() is not None and not again:
                process, again = _spawn(server, root), True
            if process.poll() is not None:
                raise TimbreflowError(f"The {server.name} server stopped while starting; see {log}.")
            if time.monotonic() > deadline:
                raise TimbreflowError(f"The {server.name} server did not answer in {STARTUP_SECONDS} s; see {log}.")
            time.sleep(0.5)


def stop(root: Path, servers: Sequence[Server] = SERVERS) -> list[str]:
    """Stop this checkout's servers, or some of them; returns the names of those that ran."""
    stopped = []
    for server in servers:
        state = _state(server, root)
        # After a restart of the machine its id may be another program's.
        if state and _alive(state["pid"]) and f"-m {server.name} server" in _command_line(state["pid"]):
            # The server leads its own process group, so that its workers go with it.
            os.killpg(state["pid"], signal.SIGTERM)
            deadline = time.monotonic() + 10
            while _alive(state["pid"]) and time.monotonic() < deadline:
                time.sleep(0.1)
            if _alive(state["pid"]):
                os.killpg(state["pid"], signal.SIGKILL)
            stopped.append(server.name)
        _state_file(server, root).unlink(missing_ok=True)
    return stopped


def _spawn(server: Server, root: Path) -> "subprocess.Popen[bytes]":
    port = server.wanted_port
    (root / ".run").mkdir(exist_ok=True)
    environment = prefect_environment(root) | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    if server is PREFECT:
        command = ["prefect", "server", "start", "--host", HOST, "--port", str(port)]
    else:
        (root / ".mlflow").mkdir(exist_ok=True)
        artifacts = str(root / ".mlflow" / "artifacts")
        command = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", tracking_uri(root), "--default-artifact-root", artifacts]
        command += ["--no-serve-artifacts"]
    with open(root / ".run" / f"{server.name}.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    write_json(_state_file(server, root), {"pid": process.pid, "port": port})
    return process


def _require_free_port(server: Server) -> None:
    port = server.wanted_port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT after a restart is free, one that somebody listens on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise TimbreflowError(
                f"Port {port}, which the {server.name} server needs, is used by another program;"
                f" stop that program or choose another port, such as `{server.port_variable}={port + 1} make ui`."
            ) from error


def _state_file(server: Server, root: Path) -> Path:
    return home_of(root) / ".run" / f"{server.name}.json"


def _state(server: Server, root: Path) -> dict[str, int] | None:
    try:
        state: dict[str, int] = json.loads(_state_file(server, root).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return state


def _alive(pid: int) -> bool:
    try:
        # A child process that has ended stays a zombie until it is waited for.
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return False
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _command_line(pid: int) -> str:
    """Command line of a process, joined by blanks; empty where it cannot be read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        pass
    try:
        # macOS has no /proc, and slim images of Linux have no ps.
        done = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout


def _remote_mlflow() -> str | None:
    """Address of the MLflow server that the environment names, if it names one and not a database."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    return address.rstrip("/") if address.startswith(("http://", "https://")) else None


def _healthy(url: str) -> bool:
    bypass_proxy_for_loopback()
    try:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        request = urllib.request.Request(parts._replace(netloc=host).geturl())
        if user:
            request.add_header("Authorization", f"Basic {base64.b64encode(unquote(user).encode()).decode()}")
        # Not urlopen, which keeps the proxies of its first call.
        with urllib.request.build_opener().open(request, timeout=3) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError):
        return False


if __name__ == "__main__":
    # For `make stop`, which needs no installed library.
    print("stopped: " + (", ".join(stop(Path.cwd())) or "nothing was running"))
