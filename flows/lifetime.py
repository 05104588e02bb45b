"""The process of a flow: one at a time, never orphaned, and never Running in Prefect after its end.

A process can be killed with -9 at any moment: the stage's, or the `dvc` that started it. It cannot clean up then, so
the next start marks flow runs without a process as crashed. A stage whose `dvc` is gone ends itself, since the next
`dvc repro` would start it a second time; so do the worker processes of a stage.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import psutil
from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogWorker
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed

from flows import ROOT
from timbreflow.errors import TimbreflowError
from timbreflow.network import ANSWER_SECONDS, within

WATCH_SECONDS = 0.5
SECONDS_TO_SEND = 10
FOSTER_PARENTS = {"sh", "bash", "dash", "zsh", "init", "systemd"}
"""Names of the processes that may be left between an orphaned process and the first one."""
_RUN = ROOT / ".run"
_SERVER_PID = _RUN / "temporary-server.pid"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold this checkout's lock of a flow; waits, with a message, while another process holds it."""
    _RUN.mkdir(exist_ok=True)
    lock = FileLock(_RUN / f"{name}.lock")
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        print(f"Another process runs {name} in this checkout; waiting for it to end.", file=sys.stderr)
        held = lock.acquire()
    with held:
        yield


def process_tag() -> str:
    """Tag by which a later start finds out whether the process of a flow run still exists."""
    return f"process:{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def mark_dead_runs_as_crashed() -> None:
    """Give every flow run of this host that is Running without a process the state Crashed."""
    running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=running):
            if any(_is_dead(tag) for tag in run.tags):
                client.set_flow_run_state(run.id, Crashed(message="Its process was killed."), force=True)


def _is_dead(tag: str) -> bool:
    kind, _, rest = tag.partition(":")
    if kind != "process":
        return False
    host, pid, created = rest.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(created)) > 1
    except psutil.NoSuchProcess:
        return True


def end_with_dvc() -> None:
    """Where DVC started this process: end it, with its workers, as soon as that `dvc` is gone, or at once if it is."""
    if "DVC_STAGE" not in os.environ:
        return
    strangers = 0
    for parent in psutil.Process().parents():
        with suppress(psutil.Error):
            strangers += parent.name() not in FOSTER_PARENTS
            # `dvc`, `python dvc` or `python -m dvc`
            if any(os.path.basename(word) == "dvc" for word in parent.cmdline()[:3]):
                threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
                return
    # Where DVC was killed during this process's imports, its parent, or that of its shell, is the first process.
    if strangers <= 1:
        _end()


def _end_with(process: psutil.Process) -> None:
    # is_running compares creation times, so a new process with the same id does not count.
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(WATCH_SECONDS)
    _end()


def _end() -> None:
    print(
        "error: dvc was killed, so this stage ends too; `dvc repro` continues from here.", file=sys.stderr, flush=True
    )
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


@contextmanager
def server() -> Iterator[None]:
    """Where no Prefect server answers, one for as long as the flow runs, which its worker processes share.

    Raises:
        TimbreflowError: the server of PREFECT_API_URL cannot be used, or another flow of this checkout has a temporary
            one now; two would fight over the database.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        _require_answer(url)
        yield
        return
    _end_forgotten_server()
    temporary = SubprocessASGIServer()
    temporary.start(timeout=120)
    if temporary.server_process is not None:
        _SERVER_PID.write_text(f"{temporary.server_process.pid} {process_tag()}", encoding="utf-8")
    os.environ["PREFECT_API_URL"] = temporary.api_url
    try:
        with temporary_settings({PREFECT_API_URL: temporary.api_url}):
            yield
    finally:
        del os.environ["PREFECT_API_URL"]
        # Otherwise they would try to send the rest for 80 s after the server's end.
        for worker in (EventsWorker, APILogWorker):
            worker.drain_all(timeout=SECONDS_TO_SEND, at_exit=False)
        temporary.stop()
        _SERVER_PID.unlink(missing_ok=True)


def _require_answer(url: str) -> None:
    """Send one request to a server, without the minutes of retries that Prefect makes."""

    def ask() -> None:
        settings = {PREFECT_CLIENT_MAX_RETRIES: 0}
        with (
            temporary_settings(settings),
            get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS}) as client,
        ):
            client.read_flow_runs(limit=1)

    try:
        within(ANSWER_SECONDS, ask)
    except Exception as error:
        raise TimbreflowError(
            f"The Prefect server at PREFECT_API_URL={url} cannot be used ({_reason(error)}); start it, or correct or "
            "unset the variable."
        ) from error


def _reason(error: Exception) -> str:
    match error:
        case TimeoutError() | httpx.TimeoutException():
            return f"no answer in {ANSWER_SECONDS} s"
        case PrefectHTTPStatusError(response=response) if response.status_code in (401, 403):
            return f"status {response.status_code}: set PREFECT_API_AUTH_STRING or PREFECT_API_KEY to its credentials"
        case PrefectHTTPStatusError(response=response) if response.status_code == 404:
            return "status 404: the address of Prefect's API ends in /api"
        case PrefectHTTPStatusError(response=response):
            return f"status {response.status_code}"
        case httpx.HTTPError() | httpx.InvalidURL() | OSError():
            return " ".join(str(error).split()) or type(error).__name__
        case _:
            return "what answers is not Prefect's API"


def _end_forgotten_server() -> None:
    """End the temporary server of a flow that was killed, since it still uses the database."""
    with suppress(OSError, ValueError, psutil.Error):
        pid, owner = _SERVER_PID.read_text(encoding="utf-8").split()
        process = psutil.Process(int(pid))
        if not _is_dead(owner) and process.is_running():
            raise TimbreflowError(
                "Another flow of this checkout runs beside a temporary Prefect server; type `make ui` before you start "
                "several flows at once, so that they share a lasting one."
            )
        if "uvicorn" in process.cmdline():
            process.terminate()
            process.wait(10)
