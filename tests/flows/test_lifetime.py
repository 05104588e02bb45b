"""Killed processes leave nothing at work and nothing that looks alive."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from prefect import flow, runtime, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Running
from prefect.testing.utilities import prefect_test_harness

from flows import lifetime
from tests.strangers import KINDS, stranger
from timbreflow.errors import TimbreflowError
from timbreflow.processes import process_tag

ROOT = Path(__file__).resolve().parents[2]

STAGE = """
import time
from flows import lifetime
lifetime.end_with_parents()
print("ready", flush=True)
time.sleep(60)
"""
DVC = """
import os, subprocess, sys
os.environ["DVC_STAGE"] = "render_triples"
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(process.pid, process.stdout.readline().strip(), flush=True)
process.wait()
"""


LEAVING = """
import atexit, sys
from flows import lifetime
class Late:
    def __del__(self):
        print("Python was taken down")
late = Late()
done = lifetime.ends_without_teardown()
atexit.register(print, "told at exit")
print("worked")
if sys.argv[1] != "badly":
    done(now=sys.argv[1] == "now")
"""


@pytest.mark.parametrize(
    ("how", "last"), [("well", ["told at exit"]), ("badly", ["told at exit", "Python was taken down"])]
)
def test_a_flow_that_went_well_ends_before_python_is_taken_down(how: str, last: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING, how], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["worked", *last])


def wait_until_gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_a_stage_ends_when_its_dvc_is_killed(tmp_path: Path) -> None:
    (tmp_path / "dvc").write_text(DVC)
    dvc = subprocess.Popen([sys.executable, str(tmp_path / "dvc"), STAGE], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert dvc.stdout is not None
    pid, word = dvc.stdout.readline().split()
    assert word == "ready"
    assert psutil.pid_exists(int(pid))
    dvc.kill()
    dvc.wait()
    assert wait_until_gone(int(pid))


STUBBORN = """
import time
from flows import lifetime
lifetime.GRACE_SECONDS = 1
lifetime.end_with_parents()
print("ready", flush=True)
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def test_a_stage_that_does_not_stop_is_killed_even_when_nobody_reads_its_errors(tmp_path: Path) -> None:
    (tmp_path / "dvc").write_text(DVC)
    command = [sys.executable, str(tmp_path / "dvc"), STUBBORN]
    dvc = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert dvc.stdout is not None and dvc.stderr is not None
    pid = int(dvc.stdout.readline().split()[0])
    dvc.stderr.close()
    dvc.kill()
    dvc.wait()
    assert wait_until_gone(pid)


LATE = """
import os, subprocess, sys
os.environ["DVC_STAGE"] = "render_triples"
process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)" + sys.argv[1]])
print(process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_stage_whose_dvc_was_killed_before_it_could_look_ends_too(tmp_path: Path) -> None:
    (tmp_path / "dvc").write_text(LATE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "dvc"), STAGE], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -9
    assert wait_until_gone(int(done.stdout), seconds=30)


def test_a_stage_ends_when_the_pipeline_is_killed_though_dvc_lives(tmp_path: Path) -> None:
    (tmp_path / "dvc").write_text(DVC)
    pipeline = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    born = psutil.Process(pipeline.pid).create_time()
    tag = f"process:{socket.gethostname()}:{pipeline.pid}:{born:.0f}"
    dvc = subprocess.Popen(
        [sys.executable, str(tmp_path / "dvc"), STAGE],
        cwd=ROOT,
        env={**os.environ, lifetime.PIPELINE_PROCESS: tag},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert dvc.stdout is not None
    pid, word = dvc.stdout.readline().split()
    assert word == "ready" and psutil.pid_exists(int(pid))
    pipeline.kill()
    pipeline.wait()
    assert wait_until_gone(int(pid))
    dvc.wait(10)


def test_a_second_process_waits_for_the_first_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from pathlib import Path\nfrom flows import lifetime\nlifetime._RUN = Path({!r})\n{}"
    monkeypatch.setattr(lifetime, "_RUN", tmp_path)
    with lifetime.alone("render"):
        body = "with lifetime.alone('render'): print('in')"
        second = subprocess.Popen(
            [sys.executable, "-c", code.format(str(tmp_path), body)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert "waiting" in second.stderr.readline()
        assert second.poll() is None
    assert second.communicate(timeout=30)[0].strip() == "in"


def test_a_run_without_a_process_gets_its_last_state_and_a_living_one_keeps_its_own() -> None:
    @flow(name="sleeper")
    def sleeper() -> None:
        pass

    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        alive = process_tag()
        dead = alive.replace(f":{psutil.Process().pid}:", f":{ended.pid}:")
        runs = {}
        for name, tag, state in (
            ("dead", dead, Running()),
            ("cancelled", dead, Cancelling()),
            ("alive", alive, Running()),
        ):
            with tags(tag):
                runs[name] = client.create_flow_run(sleeper, tags=[tag], state=state)
        lifetime.mark_dead_runs()
        states = {name: client.read_flow_run(run.id).state_type for name, run in runs.items()}
    assert states == {"dead": StateType.CRASHED, "cancelled": StateType.CANCELLED, "alive": StateType.RUNNING}


def test_a_run_that_the_ui_cancels_is_interrupted_and_becomes_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr(lifetime, "CANCEL_SECONDS", 0.2)
    monkeypatch.setattr(lifetime, "GRACE_SECONDS", 5)
    monkeypatch.setattr(lifetime, "_kill", killed.append)

    @flow(name="sleeper")
    def sleeper() -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(runtime.flow_run.id, Cancelling(), force=True)
        time.sleep(60)

    with prefect_test_harness(server_startup_timeout=120):
        with pytest.raises(KeyboardInterrupt), tags(process_tag()), lifetime.cancellable():
            sleeper()
        with get_client(sync_client=True) as client:
            states = [run.state_type for run in client.read_flow_runs() if process_tag() in run.tags]
        for watcher in (thread for thread in threading.enumerate() if "watch" in thread.name):
            watcher.join(10)
    assert states == [StateType.CANCELLED]
    assert not killed, "a process that had stopped in time was killed later"


def test_a_living_flow_keeps_its_temporary_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time; print('up', flush=True); time.sleep(60)"
    server = subprocess.Popen([sys.executable, "-c", code, "uvicorn"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    monkeypatch.setattr(lifetime, "_SERVER_PID", tmp_path / "server.pid")
    (tmp_path / "server.pid").write_text(f"{server.pid} {process_tag()}")
    with pytest.raises(TimbreflowError, match="make ui"):
        lifetime._end_forgotten_server()
    # Of a container that has ended, the id is another program's now.
    (tmp_path / "server.pid").write_text(f"{os.getpid()} {process_tag().replace('process:', 'process:another-')}")
    lifetime._end_forgotten_server()
    assert server.poll() is None
    gone = process_tag().rpartition(":")[0] + ":1"
    (tmp_path / "server.pid").write_text(f"{server.pid} {gone}")
    lifetime._end_forgotten_server()
    assert wait_until_gone(server.pid)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_cannot_be_used_is_one_sentence(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "ANSWER_SECONDS", 3)
    with stranger(kind) as address:
        monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
        began = time.monotonic()
        with (
            pytest.raises(TimbreflowError, match=f"PREFECT_API_URL={address}/api cannot be used") as caught,
            temporary_settings({PREFECT_API_URL: f"{address}/api"}),
            lifetime.server(),
        ):
            pass
        assert time.monotonic() - began < 30
    reasons = {
        "401": "credentials",
        "404": "ends in /api",
        "503": "status 503",
        "silent": "no answer",
        "drips": "no answer",
    }
    assert reasons.get(kind, "is not Prefect's API") in str(caught.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/api", "http://prefect.invalid/api", "127.0.0.1:4200/api"])
def test_a_server_that_is_not_there_is_one_sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", address)
    with (
        pytest.raises(TimbreflowError, match=f"PREFECT_API_URL={address} cannot be used"),
        temporary_settings({PREFECT_API_URL: address}),
        lifetime.server(),
    ):
        pass


def test_a_watcher_whose_words_nobody_reads_still_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich leaves by SystemExit on a broken pipe, which ended the thread that was to end the process."""

    def leave(*_: object) -> None:
        raise SystemExit(1)

    killed: list[tuple[int, int]] = []
    ended = threading.Event()
    ended.set()
    monkeypatch.setattr(lifetime.logger, "warning", leave)
    monkeypatch.setattr(lifetime.os, "kill", lambda *sent: killed.append(sent))
    lifetime._interrupt("flows.pipeline was killed", ended)
    assert killed == [(os.getpid(), signal.SIGUSR1)]
