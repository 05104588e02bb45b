"""Transfer, servers and `collect` under every fault that can be made here: what matrix.py promises is held."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from checkout import free_port

from tests.app.listening.conftest import small_study, write_small
from tests.app.serving.conftest import CONTENT, FILES, RATE, sound_file
from tests.faults.house import Ended, House, Running
from tests.inference.conftest import bundles  # noqa: F401
from tests.inference.tiny import melody
from tests.small_disk import read_only, small_disk
from timbreflow.audio.files import read_audio, write_audio
from timbreflow.files import sha256_file
from timbreflow.monitoring.record_table import read_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder with content.wav, style.wav, and an out/ that holds an older result."""
    seconds = np.arange(3 * 16000) / 16000
    for name, pitch in (("content", 440.0), ("style", 220.0)):
        write_audio(tmp_path / f"{name}.wav", 0.2 * np.sin(2 * np.pi * pitch * seconds)[None].astype(np.float32), 16000)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.wav").write_bytes(b"old")
    return tmp_path


def transfer(
    house: House, sounds: Path, *, model: str = "", fault: dict[str, Any] | None = None, **options: Any
) -> Running:
    command = ["timbreflow.cli", "transfer", str(sounds / "content.wav"), str(sounds / "style.wav")]
    command += ["-o", str(sounds / "out" / "a.wav"), "--model", model or str(house.root / "data" / "models" / "vqvae")]
    return house.start(*command, fault=fault, watch=[sounds / "out"], **options)


def assert_one_sentence(ended: Ended) -> str:
    assert ended.code == 2, ended.text
    assert len(ended.errors) == 1 and "Traceback" not in ended.text, ended.text
    return ended.errors[0]


def assert_old_and_alone(sounds: Path) -> None:
    assert [path.name for path in (sounds / "out").iterdir()] == ["a.wav"]
    assert (sounds / "out" / "a.wav").read_bytes() == b"old"


def assert_made(ended: Ended, sounds: Path) -> None:
    assert ended.code == 0, ended.text
    assert read_audio(sounds / "out" / "a.wav")[0].shape == (1, 48000)


def test_transfer_kill_9(house: House, sounds: Path) -> None:
    ended = transfer(house, sounds, fault={"when": "a.wav", "signal": signal.SIGKILL}).wait()
    assert ended.code == -signal.SIGKILL
    assert (sounds / "out" / "a.wav").read_bytes() == b"old"
    assert all(path.name == "a.wav" or path.name.startswith(".") for path in (sounds / "out").iterdir())
    assert_made(transfer(house, sounds).wait(), sounds)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_transfer_interrupted(house: House, sounds: Path, number: signal.Signals) -> None:
    ended = transfer(house, sounds, fault={"when": 1, "signal": number}).wait()
    assert ended.code == 128 + number, ended.text
    assert "Traceback" not in ended.text
    assert_old_and_alone(sounds)


def test_transfer_disk_full(house: House, sounds: Path) -> None:
    shutil.rmtree(sounds / "out")
    with small_disk(sounds / "out", 16):
        (sounds / "out" / "a.wav").write_bytes(b"old")
        sentence = assert_one_sentence(transfer(house, sounds).wait())
        assert "No space left" in sentence or "damaged" in sentence or "cannot be" in sentence
        assert_old_and_alone(sounds)


def test_transfer_read_only_disk(house: House, sounds: Path) -> None:
    with read_only(sounds / "out"):
        assert "write-protected" in assert_one_sentence(transfer(house, sounds).wait())
    assert_old_and_alone(sounds)


def test_transfer_locked_registry(house: House, sounds: Path) -> None:
    with closing(sqlite3.connect(house.root / ".mlflow" / "mlflow.db", isolation_level=None)) as store:
        store.execute("BEGIN EXCLUSIVE")
        ended = transfer(house, sounds, model="models:/timbreflow-vqvae@challenger").wait()
        store.execute("ROLLBACK")
    assert "locked" in assert_one_sentence(ended)
    assert_old_and_alone(sounds)


def test_transfer_clock_set_back(house: House, sounds: Path) -> None:
    if not house.has_clock:
        pytest.skip("needs a C compiler for the clock")
    assert_made(transfer(house, sounds, fault={"when": 1, "clock": -(10**7)}).wait(), sounds)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
@pytest.mark.parametrize("fault", ["cut", "missing"])
def test_transfer_broken_model(house: House, sounds: Path, name: str, fault: str) -> None:
    path = house.root / "data" / "models" / "vqvae" / name
    data = path.read_bytes()
    path.unlink() if fault == "missing" else path.write_bytes(data[: len(data) // 2])
    assert name in assert_one_sentence(transfer(house, sounds).wait())
    assert_old_and_alone(sounds)


def test_transfer_memory_that_ends(house: House, sounds: Path) -> None:
    ended = transfer(house, sounds, fault={"when": 0, "memory": 2 << 20}).wait()
    assert "memory" in assert_one_sentence(ended)
    assert_old_and_alone(sounds)


def test_transfer_two_at_once(house: House, sounds: Path) -> None:
    both = [transfer(house, sounds), transfer(house, sounds)]
    for running in both:
        assert_made(running.wait(), sounds)
    assert [path.name for path in (sounds / "out").iterdir()] == ["a.wav"]


def test_transfer_odd_environment(elsewhere: House, house: House, sounds: Path) -> None:
    model = str(house.root / "data" / "models" / "vqvae")
    folder = sounds / "mit Leerzeichen und ü"
    (sounds / "out").rename(sounds / "old")
    folder.mkdir()
    for name in ("content.wav", "style.wav"):
        shutil.copy(sounds / name, folder / name)
    (folder / "out").mkdir()
    assert_made(transfer(elsewhere, folder, model=model).wait(), folder)


@contextmanager
def serving(house: House, study: Path, port: int, **options: Any) -> Iterator[Running]:
    """A listening test that answers; killed at the end where it still runs."""
    running = house.start("timbreflow.cli", "listen", "serve", str(study), "--port", str(port), **options)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, running.text
            time.sleep(0.1)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        while Path(f"/proc/{running.pid}").exists():  # until then it may still take a connection
            time.sleep(0.01)


class Listener:
    """Somebody at the page."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"
        self._cookie = ""
        self.name = self.ask("/api/sessions", b"")["name"]

    def ask(self, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self._address + path, body, {"Cookie": self._cookie})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            self._cookie = self._cookie or str(answer.headers["Set-Cookie"]).partition(";")[0]
            return json.load(answer)

    def answer(self, position: int) -> int:
        body = {"position": position, "answer": 0, "seconds": 1.0}
        return int(self.ask(f"/api/sessions/{self.name}/answers", json.dumps(body).encode())["left"])

    def answered(self) -> list[int]:
        return [s["position"] for s in self.ask(f"/api/sessions/{self.name}")["steps"] if s["answered"]]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_small(tmp_path / "study", small_study())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill-9", "sigterm", "ctrl-c"])
def test_listen_keeps_every_answer(house: House, study: Path, number: signal.Signals) -> None:
    port = free_port()
    with serving(house, study, port) as running:
        listener = Listener(port)
        listener.answer(0)
        listener.answer(1)
        running.signal(number)
        ended = running.wait(60)
        assert "Traceback" not in ended.text
    with serving(house, study, port):
        assert listener.answered() == [0, 1]
        listener.answer(2)


def test_listen_full_disk_takes_no_answer_and_loses_none(house: House, study: Path) -> None:
    port = free_port()
    place = study.parent / "disk"
    with small_disk(place, 3000):
        shutil.copytree(study, place / "study")
        with serving(house, place / "study", port):
            listener = Listener(port)
            listener.answer(0)
            with open(place / "full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))
            taken, refused = 0, None
            for position in range(1, 10):
                try:
                    listener.answer(position)
                    taken += 1
                except urllib.error.HTTPError as error:
                    refused = error
                    break
            assert refused is not None and refused.code == 503
            assert "could not be saved" in json.load(refused)["error"]
            (place / "full").unlink()
            listener.answer(1 + taken)
            assert listener.answered() == list(range(2 + taken))


def test_listen_read_only_disk(house: House, study: Path) -> None:
    with read_only(study):
        ended = house.run("timbreflow.cli", "listen", "serve", str(study), "--port", str(free_port()))
    assert "cannot be used" in assert_one_sentence(ended)


def test_listen_locked_database(house: House, study: Path) -> None:
    port = free_port()
    with serving(house, study, port):
        listener = Listener(port)
        with closing(sqlite3.connect(study / "answers.sqlite", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            signal.signal(signal.SIGALRM, lambda *_: database.execute("ROLLBACK"))
            signal.alarm(2)
            listener.answer(0)
        assert time.monotonic() - began > 1
        assert listener.answered() == [0]


def test_listen_clock_set_back(house: House, study: Path) -> None:
    if not house.has_clock:
        pytest.skip("needs a C compiler for the clock")
    port = free_port()
    with serving(house, study, port, fault={"when": 0, "clock": -(10**7)}):
        first = Listener(port)
        first.answer(0)
        assert first.answered() == [0]
    with serving(house, study, port):
        first.answer(1)
        assert first.answered() == [0, 1]


def test_listen_two_at_once(house: House, study: Path) -> None:
    port, other = free_port(), free_port()
    with serving(house, study, port), serving(house, study, other):
        ended = house.run("timbreflow.cli", "listen", "serve", str(study), "--port", str(port))
        assert "cannot be listened on" in assert_one_sentence(ended)
        listeners = [Listener(port), Listener(other)]
        for position in range(3):
            for listener in listeners:
                listener.answer(position)
        assert [listener.answered() for listener in listeners] == [[0, 1, 2]] * 2


def test_listen_odd_environment(elsewhere: House, study: Path) -> None:
    port = free_port()
    place = study.rename(study.with_name("étude numéro 1"))
    with serving(elsewhere, place, port):
        listener = Listener(port)
        listener.answer(0)
        assert listener.answered() == [0]


@contextmanager
def studio(house: House, folder: Path, port: int, **environment: str) -> Iterator[Running]:
    """A studio whose files are below `folder`."""
    folder.mkdir(exist_ok=True)
    running = house.start(
        "timbreflow.cli", "studio", "--port", str(port), environment={"TMPDIR": str(folder), **environment}
    )
    deadline = time.monotonic() + 120
    while "studio: http" not in running.text:
        assert time.monotonic() < deadline, running.text
        time.sleep(0.1)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


def page_of(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_studio_interrupted_deletes_its_files(house: House, tmp_path: Path, number: signal.Signals) -> None:
    with studio(house, tmp_path / "tmp", port := free_port()) as running:
        assert "timbreflow" in page_of(port).lower()
        assert list((tmp_path / "tmp").glob("timbreflow-studio-*"))
        running.signal(number)
        ended = running.wait(60)
    assert ended.code == 0 and "Traceback" not in ended.text, ended.text
    assert list((tmp_path / "tmp").glob("timbreflow-studio-*")) == []


def test_studio_kill_9(house: House, tmp_path: Path) -> None:
    """What a killed studio leaves of its visitors is deleted by the next one."""
    with studio(house, tmp_path / "tmp", port := free_port()) as running:
        (left,) = (tmp_path / "tmp").glob("timbreflow-studio-*")
        running.signal(signal.SIGKILL)
        running.wait(60)
    assert left.exists()
    with studio(house, tmp_path / "tmp", port):
        assert "timbreflow" in page_of(port).lower()
        assert not left.exists()


def test_studio_read_only_disk(house: House, tmp_path: Path) -> None:
    """Where TMPDIR cannot be written, Python's tempfile takes the next folder of the system."""
    with read_only(tmp_path / "tmp"), studio(house, tmp_path / "tmp", port := free_port()) as running:
        assert "timbreflow" in page_of(port).lower()
        assert list((tmp_path / "tmp").iterdir()) == []
        running.signal(signal.SIGINT)
        assert running.wait(60).code == 0


def test_studio_two_at_once(house: House, tmp_path: Path) -> None:
    with studio(house, tmp_path / "tmp", port := free_port()):
        ended = house.run("timbreflow.cli", "studio", "--port", str(port), timeout=120)
        assert "cannot be used" in assert_one_sentence(ended)
        assert "timbreflow" in page_of(port).lower()


def test_studio_odd_environment(elsewhere: House, tmp_path: Path) -> None:
    with studio(elsewhere, tmp_path / "tmp", port := free_port()):
        assert "timbreflow" in page_of(port).lower()


@dataclass(frozen=True)
class Server:
    """`timbreflow serve`, loaded.

    Attributes:
        running: its process.
        client: of its address.
        temporary: folder of its temporary files.
    """

    running: Running
    client: httpx.Client
    temporary: Path

    def transfer(self, content: bytes = CONTENT, **fields: str) -> httpx.Response:
        return self.client.post("/transfer", files=[("content", ("a", content)), FILES[1]], data=fields)


@pytest.fixture
def model(bundles: dict[str, Path], tmp_path: Path) -> Path:  # noqa: F811
    """A tiny model that a test may break."""
    return Path(shutil.copytree(bundles["vqvae"], tmp_path / "model"))


def serve(
    house: House, model: Path | str, tmp_path: Path, *options: str | Path, port: int | None = 0, **more: Any
) -> Running:
    temporary = tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {"TMPDIR": str(temporary)} | more.pop("environment", {})
    command = ["timbreflow.cli", "serve", "--model", str(model), "--port", str(port), *map(str, options)]
    return house.start(*command, environment=environment, **more)


@contextmanager
def served(house: House, model: Path | str, tmp_path: Path, *options: str | Path, **more: Any) -> Iterator[Server]:
    """A server that is ready; killed at the end where it still runs."""
    running = serve(house, model, tmp_path, *options, **more)
    deadline = time.monotonic() + 120
    try:
        while (found := re.search(r" at (http://127\S+)", running.text)) is None:
            assert time.monotonic() < deadline, running.text
            time.sleep(0.05)
        with httpx.Client(base_url=found[1], timeout=60, trust_env=False) as client:
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < deadline, running.text
                time.sleep(0.05)
            yield Server(running, client, tmp_path / "tmp")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


def folders_of_servers(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "tmp").iterdir() if "timbreflow-serve-" in path.name]


def test_serve_kill_9(opened: House, model: Path, tmp_path: Path) -> None:
    """Killed while it records its second transfer, which was answered; what people had sent goes at the next start."""
    records = tmp_path / "records" / "served"
    # The start makes the folder and tries it; each record makes it too, and opens its lock and its file.
    at_second = {"when": 3 + 6, "signal": signal.SIGKILL}
    with served(opened, model, tmp_path, "--record", records, fault=at_second, watch=[records.parent]) as server:
        answers = [server.transfer(), server.transfer()]
        assert server.running.wait().code == -signal.SIGKILL
    assert [answer.status_code for answer in answers] == [200, 200]
    (left,) = folders_of_servers(tmp_path)
    before = read_records(records, days=1)
    assert (len(before), before.broken) == (1, 0)
    with served(opened, model, tmp_path, "--record", records) as server:
        assert not left.exists()
        assert server.transfer().content == answers[0].content
        server.running.signal(signal.SIGTERM)
        assert server.running.wait().code == 0
    after = read_records(records, days=1)
    assert (len(after), after.broken) == (2, 0)
    assert folders_of_servers(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_serve_interrupted(opened: House, model: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Two requests have a place, one of which waits; both get their answer."""
    long = sound_file(melody(20, RATE), kind="OGG")
    with served(opened, model, tmp_path) as server, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(server.transfer, long) for _ in range(2)]
        while "timbreflow_requests_in_server 2.0" not in server.client.get("/metrics").text:
            assert not any(answer.done() for answer in answers)
        server.running.signal(number)
        assert [answer.result().status_code for answer in answers] == [200, 200]
        ended = server.running.wait()
        assert ended.code == 0 and "Traceback" not in ended.text and ended.errors == [], ended.text
        with pytest.raises(ProcessLookupError):
            os.killpg(server.running.pid, 0)
    assert folders_of_servers(tmp_path) == []


def test_serve_disk_full(opened: House, model: Path, tmp_path: Path) -> None:
    """An upload that has no room, and a small one whose result has none, are a 507; the next request is served."""
    long = melody(15, RATE)
    with small_disk(tmp_path / "tmp", 400), served(opened, model, tmp_path) as server:
        for content, made_as in ((sound_file(long), "ogg"), (sound_file(long, kind="OGG"), "wav")):
            answer = server.transfer(content, format=made_as)
            assert answer.status_code == 507 and "no room" in answer.json()["error"], answer.text
            assert server.transfer().status_code == 200
        assert "Traceback" not in server.running.text, server.running.text


def test_serve_read_only_disk(opened: House, model: Path, tmp_path: Path) -> None:
    """No start that would record nothing; for sounds, the next folder of the system for temporary files is used."""
    with read_only(tmp_path / "records", tmp_path / "tmp"):
        ended = serve(opened, model, tmp_path, "--record", tmp_path / "records" / "served").wait()
        sentence = assert_one_sentence(ended)
        assert "--record" in sentence and "Read-only" in sentence
        with served(opened, model, tmp_path) as server:
            assert server.transfer().status_code == 200
            server.running.signal(signal.SIGTERM)
            assert server.running.wait().code == 0
        assert folders_of_servers(tmp_path) == []


def test_serve_a_registry_that_is_down(opened: House, tmp_path: Path) -> None:
    down = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    ended = serve(opened, "models:/timbreflow-vqvae@champion", tmp_path, environment=down).wait()
    assert "http://127.0.0.1:1" in assert_one_sentence(ended) and "serving" not in ended.text
    with served(opened, "vqvae", tmp_path, environment=down) as server:
        assert "model: the released vqvae" in server.running.text and "127.0.0.1:1" in server.running.text
        assert server.transfer().status_code == 200


def test_serve_a_registry_that_is_slow(opened: House, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        asked = {"environment": {"MLFLOW_TRACKING_URI": address}}
        ended = serve(opened, "models:/timbreflow-vqvae@champion", tmp_path, **asked).wait()
    assert address in assert_one_sentence(ended)
    assert time.monotonic() - began < 60


def test_serve_locked_registry(opened: House, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as store:
        store.execute("BEGIN EXCLUSIVE")
        locked = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
        ended = serve(opened, "models:/timbreflow-vqvae@champion", tmp_path, environment=locked).wait()
        store.execute("ROLLBACK")
    assert "locked" in assert_one_sentence(ended)


def test_serve_clock_set_back(opened: House, model: Path, tmp_path: Path) -> None:
    """Between its first and its second transfer."""
    if not opened.has_clock:
        pytest.skip("needs a C compiler for the clock")
    records = tmp_path / "records" / "served"
    at_second = {"when": 3 + 4, "clock": -(10**7)}
    with served(opened, model, tmp_path, "--record", records, fault=at_second, watch=[records.parent]) as server:
        for _ in range(3):
            assert server.transfer().status_code == 200
        server.running.signal(signal.SIGTERM)
        assert server.running.wait().code == 0
    read = read_records(records, days=200)
    assert (len(read), read.broken) == (3, 0)
    assert len({time.date() for time in read.table["time"]}) == 2


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
@pytest.mark.parametrize("fault", ["cut", "missing"])
def test_serve_broken_model(opened: House, model: Path, tmp_path: Path, name: str, fault: str) -> None:
    path = model / name
    data = path.read_bytes()
    path.unlink() if fault == "missing" else path.write_bytes(data[: len(data) // 2])
    assert name in assert_one_sentence(serve(opened, model, tmp_path).wait())
    assert folders_of_servers(tmp_path) == []


def test_serve_two_at_once(opened: House, model: Path, tmp_path: Path) -> None:
    """One port: a sentence. Two servers that record to one folder: every row is whole."""
    records = ("--record", tmp_path / "records")
    with (
        served(opened, model, tmp_path, *records) as first,
        served(opened, model, tmp_path, *records) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        ended = serve(opened, model, tmp_path, port=first.client.base_url.port).wait()
        assert "cannot be listened on" in assert_one_sentence(ended)
        assert len(folders_of_servers(tmp_path)) == 2
        made = pool.map(lambda server: [server.transfer().status_code for _ in range(5)], (first, second))
        assert list(made) == [[200] * 5] * 2
        for server in (first, second):
            server.running.signal(signal.SIGTERM)
            assert server.running.wait().code == 0
    read = read_records(tmp_path / "records", days=1)
    assert (len(read), read.broken) == (10, 0)


def test_serve_odd_environment(elsewhere: House, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mit Leerzeichen und ü"
    folder.mkdir()
    with served(elsewhere, model.rename(folder / "modèle"), folder, "--record", folder / "records") as server:
        assert server.transfer().status_code == 200
        server.running.signal(signal.SIGTERM)
        assert server.running.wait().code == 0
    assert len(read_records(folder / "records", days=1)) == 1


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with three recordings in in/."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        noise = np.random.default_rng(ord(name)).normal(0, 0.1, (1, 20 * 16000)).astype(np.float32)
        write_audio(tmp_path / "in" / f"{name}.wav", noise, 16000)
    return tmp_path


def collect(house: House, folder: Path, out: Path | None = None, **options: Any) -> Running:
    place = out or folder / "out" / "clips"
    command = ["timbreflow.cli", "collect", str(folder / "in"), "--out", str(place)]
    return house.start(*command, watch=[place.parent], **options)


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill-9", "sigterm", "ctrl-c"])
def test_collect_audio(house: House, recordings: Path, number: signal.Signals) -> None:
    unbroken = recordings / "other" / "clips"
    unbroken.parent.mkdir()
    assert collect(house, recordings, unbroken).wait().code == 0
    count = recordings / "count"
    (recordings / "out").mkdir()
    assert collect(house, recordings, count=count).wait().code == 0
    shutil.rmtree(recordings / "out")
    (recordings / "out").mkdir()
    ended = collect(house, recordings, fault={"when": int(count.read_text()) // 2, "signal": number}).wait()
    assert ended.code == (-9 if number == signal.SIGKILL else 128 + number), ended.text
    assert "Traceback" not in ended.text
    assert not (recordings / "out" / "clips").exists()
    assert collect(house, recordings).wait().code == 0
    assert digests(recordings / "out" / "clips") == digests(unbroken)
    assert [path.name for path in (recordings / "out").iterdir()] == ["clips"]


def test_collect_audio_disk_full(house: House, recordings: Path) -> None:
    with small_disk(recordings / "out", 100):
        sentence = assert_one_sentence(collect(house, recordings).wait())
        assert "make room" in sentence
        assert not (recordings / "out" / "clips").exists()
    assert collect(house, recordings).wait().code == 0


def test_collect_audio_read_only_disk(house: House, recordings: Path) -> None:
    with read_only(recordings / "out"):
        assert "Read-only" in assert_one_sentence(collect(house, recordings).wait())


def test_collect_audio_clock_set_back(house: House, recordings: Path) -> None:
    if not house.has_clock:
        pytest.skip("needs a C compiler for the clock")
    for place, fault in (("one", None), ("two", {"when": 2, "clock": -(10**7)})):
        (recordings / place).mkdir()
        assert collect(house, recordings, recordings / place / "clips", fault=fault).wait().code == 0
    assert digests(recordings / "one" / "clips") == digests(recordings / "two" / "clips")


def test_collect_audio_two_at_once(house: House, recordings: Path) -> None:
    (recordings / "out").mkdir()
    both = [collect(house, recordings), collect(house, recordings)]
    ended = [running.wait() for running in both]
    assert 0 in [one.code for one in ended], ended
    for one in ended:
        if one.code:
            assert "another process collects" in assert_one_sentence(one)
    assert (recordings / "out" / "clips" / "manifest.parquet").is_file()
    assert [path.name for path in (recordings / "out").iterdir()] == ["clips"]


def test_collect_audio_odd_environment(elsewhere: House, recordings: Path) -> None:
    (recordings / "in").rename(recordings / "Aufnahmen für A")
    (recordings / "in").symlink_to(recordings / "Aufnahmen für A")
    (recordings / "mit Leerzeichen").mkdir()
    ended = collect(elsewhere, recordings, recordings / "mit Leerzeichen" / "clips").wait()
    assert ended.code == 0, ended.text
