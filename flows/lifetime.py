"""The process of a flow: one at a time, never orphaned, and never Running in Prefect after its end.

A process can be killed with -9 at any moment: the stage's, or the `dvc` that started it. It cannot clean up then, so
the next start marks flow runs without a process as crashed. A stage ends itself, with its worker processes, when its
`dvc` or its `flows.pipeline` is gone, since the next `dvc repro` would start it a second time, and when its run is
cancelled in the Prefect UI.
"""

import atexit
import contextvars
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import httpx
import psutil
from filelock import FileLock, Timeout
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, PREFECT_UI_URL, temporary_settings
from prefect.states import Cancelled, Crashed
from ruamel.yaml import YAML

from flows import ROOT
from timbreflow.app.servers import HOST, PREFECT
from timbreflow.errors import TimbreflowError
from timbreflow.network import ANSWER_SECONDS, within, without_password
from timbreflow.processes import is_dead, process_tag

WATCH_SECONDS = 0.5
CANCEL_SECONDS = 3.0
"""Between two looks at whether the flow run was cancelled."""
GRACE_SECONDS = 20.0
"""For a process to close what it records before it is killed."""
SECONDS_TO_SEND = 10
SECONDS_OF_SILENCE = 60.0
"""Without requests after one that failed."""
PIPELINE_PROCESS = "TIMBREFLOW_PIPELINE_PROCESS"
"""Environment variable that holds the process tag of flows.pipeline for what it starts."""
FOSTER_PARENTS = {"sh", "bash", "dash", "zsh", "init", "systemd"}
"""Names of the processes that may be left between an orphaned process and the first one."""
_RUN = ROOT / ".run"
_SERVER_PID = _RUN / "temporary-server.pid"

logger = logging.getLogger("timbreflow.flows")


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


def remove_part_files(stage: str, variant: str = "") -> None:
    """Delete what a killed process of a stage had begun to write beside its outputs: hidden files and folders.

    To be called while the stage's lock is held, so that nobody is writing.
    """
    entry = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].get(stage, {})
    if "foreach" in entry:
        text = json.dumps(entry["do"]).replace("${key}", variant)
        entry = json.loads(text.replace("${item}", entry["foreach"].get(variant, "")))
    outs = [
        out if isinstance(out, str) else next(iter(out)) for out in (*entry.get("outs", ()), *entry.get("metrics", ()))
    ]
    # Some stages replace their folder of results as a whole.
    places = {ROOT / out for out in outs} | {(ROOT / out).parent for out in outs if out.startswith("results/")}
    if stage == "validate_data":
        # It outlives every run, so it is no output in dvc.yaml.
        places.add(ROOT / "results" / stage / "history.csv")
    for path in places:
        part = f".{re.escape(path.stem[:40])}-(old-\\w+|[0-9a-f]{{8}}{re.escape(path.suffix)})"
        for other in path.parent.glob(".*"):
            if re.fullmatch(part, other.name):
                if not path.exists() and (other / path.name).is_dir():
                    # Killed between two renames: the old folder had been moved away, the new one was not there yet.
                    (other / path.name).rename(path)
                shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink(missing_ok=True)


def ends_without_teardown() -> Callable[..., None]:
    """Once what is returned has been called, the process ends with code 0 without taking down Python.

    A daemon thread of Prefect that is in pydantic's Rust code at that moment would abort the process now and then,
    though all work is done (https://github.com/PyO3/pyo3/pull/4874). Other threads, and what is registered with atexit
    from now on, are waited for as ever; called with `now=True`, nothing is.
    """
    done = threading.Event()

    def leave() -> None:
        if done.is_set():
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):
                    stream.flush()
            os._exit(0)

    def end(*, now: bool = False) -> None:
        done.set()
        if now:
            leave()

    atexit.register(leave)
    return end


def mark_dead_runs() -> None:
    """Give every flow run of this host or container that is open without a process its last state."""
    open_states = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=open_states)))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=unfinished):
            if any(map(is_dead, run.tags)):
                killed: State = (Cancelled if run.state_type == StateType.CANCELLING else Crashed)(
                    message="Its process was killed."
                )
                client.set_flow_run_state(run.id, killed, force=True)


def tag_this_run() -> None:
    """Tag a flow run that a worker of Prefect started, not `entry`, with its process."""
    if process_tag() not in runtime.flow_run.tags:
        with get_client(sync_client=True) as client:
            client.update_flow_run(runtime.flow_run.id, tags={*runtime.flow_run.tags, process_tag()})


def end_with_parents() -> None:
    """End this process, with its workers, as soon as the `dvc` or the flows.pipeline that started it is gone."""
    if "DVC_STAGE" not in os.environ:
        return
    strangers = 0
    for parent in psutil.Process().parents():
        with suppress(psutil.Error):
            strangers += parent.name() not in FOSTER_PARENTS
            # `dvc`, `python dvc` or `python -m dvc`
            if any(os.path.basename(word) == "dvc" for word in parent.cmdline()[:3]):
                _take_interrupts()
                threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
                return
    # Where DVC was killed during this process's imports, its parent, or that of its shell, is the first process.
    if strangers <= 1:
        _kill("dvc was killed")


def _end_with(process: psutil.Process) -> None:
    pipeline = os.environ.get(PIPELINE_PROCESS, "")
    # is_running compares creation times, so a new process with the same id does not count.
    with suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if is_dead(pipeline):
                _interrupt("flows.pipeline was killed")
            time.sleep(WATCH_SECONDS)
    _interrupt("dvc was killed")


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which services, containers and clusters stop a process: it ends as by Ctrl-C."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM interrupts the main thread; Prefect's own handler would let the process die of it."""

    def terminated(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _take_interrupts() -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    # Not SIGINT, which a shell without job control has its background processes ignore.
    signal.signal(signal.SIGUSR1, interrupted)


def _interrupt(reason: str, ended: threading.Event | None = None) -> None:
    """Stop the main thread as Ctrl-C does, so that it closes what it records; kill it where that takes long.

    Args:
        reason: printed.
        ended: set where the main thread has stopped in time, and may go on; None: the process ends in any case.
    """
    # Rich, which prints it, leaves by SystemExit where nobody reads any more; this thread must go on.
    with suppress(SystemExit):
        logger.warning("%s; this run ends", reason)
    os.kill(os.getpid(), signal.SIGUSR1)
    if ended is None:
        time.sleep(GRACE_SECONDS)
    elif ended.wait(GRACE_SECONDS):
        return
    _kill(reason)


def _kill(reason: str) -> None:
    # Who read these lines may have been killed as well.
    with suppress(OSError):
        print(f"error: {reason}, so this stage ends too; `dvc repro` continues from here.", file=sys.stderr, flush=True)
    _kill_tree(psutil.Process())
    os._exit(1)


def _kill_tree(process: psutil.Process) -> None:
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()


def end_group(process: "subprocess.Popen[str]") -> None:
    """Interrupt a process that leads its own group, and what it started; kill what is left after a while."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        leader = psutil.Process(process.pid)
        family = [leader, *leader.children(recursive=True)]
        os.killpg(process.pid, signal.SIGINT)
        for left in psutil.wait_procs(family, timeout=GRACE_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                left.kill()
    process.wait()


def _own_runs(client: Any) -> list[FlowRun]:
    own = FlowRunFilter(tags=FlowRunFilterTags(all_=[process_tag()]))
    runs: list[FlowRun] = client.read_flow_runs(flow_run_filter=own)
    return runs


@contextmanager
def cancellable() -> Iterator[None]:
    """Interrupt what is inside when its flow run is cancelled in the Prefect UI; interrupted, the run is Cancelled."""
    _take_interrupts()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(CANCEL_SECONDS):
            # A server that does not answer ends nothing.
            with suppress(httpx.HTTPError, OSError), impatient(), get_client(sync_client=True) as client:
                states = {run.state_type for run in _own_runs(client)}
                if not ended.is_set() and states & {StateType.CANCELLING, StateType.CANCELLED}:
                    _interrupt("the flow run was cancelled", ended)

    # A new thread would not know the temporary server's address, and start one of its own.
    threading.Thread(target=contextvars.copy_context().run, args=(watch,), name="watch cancelling", daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        ended.set()
        with suppress(httpx.HTTPError, OSError), impatient(), get_client(sync_client=True) as client:
            for run in _own_runs(client):
                message = "Interrupted; the next `dvc repro` goes on from the last checkpoint or shard."
                client.set_flow_run_state(run.id, Cancelled(message=message), force=True)
        raise
    finally:
        ended.set()


def impatient() -> AbstractContextManager[Any]:
    """Inside, requests to Prefect are not repeated: telling must not hold up work."""
    return temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})


def patient() -> AbstractContextManager[Any]:
    """Inside, a request to Prefect is repeated for half a minute; by default it would be for one.

    Prefect makes two at the end of a run, so a server that has gone keeps a run from ending for a minute.
    """
    return temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 4})


class Teller:
    """Tells Prefect what a run does, as well as it can: a server that is gone ends no work.

    After a request that failed, none is tried for a while, and one sentence says so.
    """

    def __init__(self) -> None:
        self._silent_until = 0.0
        self._warned = False

    def __call__(self, tell: Callable[[], Any]) -> Any:
        """What `tell` gives, or None where the server does not answer."""
        began = time.monotonic()
        if began < self._silent_until:
            return None
        try:
            with impatient():
                return tell()
        except (httpx.HTTPError, OSError) as error:
            now = time.monotonic()
            self._silent_until = now + max(SECONDS_OF_SILENCE, 10 * (now - began))
            if not self._warned:
                self._warned = True
                why = without_password(reason(error))
                logger.warning("Prefect does not answer (%s); the work goes on without being shown.", why)
            return None


@contextmanager
def server() -> Iterator[None]:
    """Where no Prefect server answers, one for as long as the flow runs, which its worker processes share.

    Raises:
        TimbreflowError: the server of PREFECT_API_URL cannot be used, or another flow of this checkout has a temporary
            one now; two would fight over the database.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        _require_answer(url)
        try:
            yield
        finally:
            _send_the_rest()
        return
    _end_forgotten_server()
    # It loads all of the server's code, which takes seconds.
    from prefect.server.api.server import SubprocessASGIServer

    temporary = SubprocessASGIServer()
    temporary.start(timeout=120)
    if temporary.server_process is not None:
        _SERVER_PID.write_text(f"{temporary.server_process.pid} {process_tag()}", encoding="utf-8")
    os.environ["PREFECT_API_URL"] = temporary.api_url
    try:
        # Where `make ui` will show the run.
        lasting = f"http://{HOST}:{PREFECT.wanted_port}"
        with temporary_settings({PREFECT_API_URL: temporary.api_url, PREFECT_UI_URL: lasting}):
            yield
    finally:
        del os.environ["PREFECT_API_URL"]
        _send_the_rest()
        temporary.stop()
        _SERVER_PID.unlink(missing_ok=True)


def _send_the_rest() -> None:
    # Otherwise they would try for 80 s where the server has gone.
    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=SECONDS_TO_SEND, at_exit=False)


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
            without_password(
                f"The Prefect server at PREFECT_API_URL={url} cannot be used ({reason(error)}); start it, or correct "
                "or unset the variable."
            )
        ) from error


def reason(error: Exception) -> str:
    """Why a server cannot be used, in a few words."""
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
        # Of a container that has ended, the id may be another program's.
        if "uvicorn" not in process.cmdline():
            return
        if not is_dead(owner):
            raise TimbreflowError(
                "Another flow of this checkout runs beside a temporary Prefect server; wait for its end. To run "
                "several flows at once, start a permanent server first: `make ui`."
            )
        process.terminate()
        process.wait(10)
