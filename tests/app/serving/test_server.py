"""Answers, places, clients that leave, figures, and the end."""

import errno
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from tests.app.serving.conftest import CONTENT, FILES, RATE, STYLE, Gate, Running, running, sound_file
from tests.inference.test_core_dependencies import command
from tests.inference.tiny import melody
from timbreflow.app.serving import server
from timbreflow.app.serving.limits import Limits
from timbreflow.commands.serving import serve
from timbreflow.errors import TimbreflowError
from timbreflow.inference.transfer import TimbreTransfer

ROOT = Path(__file__).resolve().parents[3]


def expected(bundle: Path, folder: Path, *, suffix: str = "wav", **options: Any) -> bytes:
    """What `transfer_file` makes of the same files."""
    for name, data in (("content", CONTENT), ("style", STYLE)):
        (folder / name).write_bytes(data)
    TimbreTransfer.load(bundle).transfer_file(folder / "content", folder / "style", folder / f"out.{suffix}", **options)
    return (folder / f"out.{suffix}").read_bytes()


def test_the_answer_is_what_a_transfer_of_files_gives(
    shared: Running, bundles: dict[str, Path], tmp_path: Path
) -> None:
    answer = shared.post(strength="0.5", transpose="12")
    assert answer.status_code == 200, answer.text
    assert answer.content == expected(bundles["vqvae"], tmp_path, strength=0.5, transpose=12)
    assert (
        answer.headers["content-type"] == "audio/wav"
        and 'filename="transfer.wav"' in answer.headers["content-disposition"]
    )
    shared.until(shared.is_empty)


def test_fields_reach_a_glow_and_two_workers_do_not_disturb_each_other(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    wanted = {seed: expected(bundles["glow"], tmp_path, suffix="flac", seed=seed, temperature=1.0) for seed in range(4)}
    assert len(set(wanted.values())) == 4
    with (
        running(bundles["glow"], tmp_path / "serving", limits=Limits(concurrency=2)) as run,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = pool.map(lambda seed: run.post(seed=str(seed), temperature="1", format="flac"), wanted)
    for (seed, sound), answer in zip(wanted.items(), answers, strict=True):
        assert answer.headers["content-type"] == "audio/flac"
        assert answer.content == sound, seed


def test_styles_are_blended_and_notes_are_told(shared: Running) -> None:
    stereo = sound_file(np.stack([melody(1, RATE)] * 2, axis=1))
    answer = shared.post(files=[("content", ("a", stereo)), FILES[1], ("style", ("b", CONTENT))], blend="3,1")
    assert answer.status_code == 200, answer.text
    assert soundfile.info(io.BytesIO(answer.content)).channels == 2
    assert "The models are mono: all 2 channels of 1.wav hold the same sound." in answer.headers["timbreflow-notes"]


def test_a_batch_is_a_zip_of_the_single_answers(shared: Running) -> None:
    other = sound_file(melody(1, RATE, seed=5))
    single = [shared.post().content, shared.post(files=[("content", ("x", other)), FILES[1]]).content]
    for styles in ([FILES[1]], [FILES[1]] * 2):
        answer = shared.post("/batch", files=[FILES[0], ("content", ("x", other)), *styles])
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.namelist() == ["1.wav", "2.wav"]
            assert [archive.read(name) for name in archive.namelist()] == single


@pytest.mark.parametrize(
    ("files", "status", "part"),
    [
        ([FILES[0]] * 3 + [FILES[1]] * 2, 422, "3 contents and 2 styles"),
        ([FILES[0]] * 4 + [FILES[1]], 413, "may have 4 s of content, and this has 5 s"),
        ([FILES[0], ("content", ("x", b"la la")), FILES[1]], 415, "Content 2 cannot be read as sound"),
        ([FILES[0], ("content", ("x", sound_file(np.zeros(RATE)))), FILES[1]], 422, "Content 2 is silent"),
    ],
)
def test_a_batch_is_served_whole_or_not_at_all(shared: Running, files: Any, status: int, part: str) -> None:
    answer = shared.post("/batch", files=files)
    assert answer.status_code == status and part in answer.json()["error"]
    shared.until(shared.is_empty)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/transfer", 405), ("DELETE", "/batch", 405), ("GET", "/..%2f..%2fetc/passwd", 404)],
)
def test_other_paths_and_methods_get_one_sentence(shared: Running, method: str, path: str, status: int) -> None:
    answer = shared.client.request(method, path)
    assert answer.status_code == status and set(answer.json()) == {"error"}


def test_other_names_of_the_loopback_are_refused(shared: Running) -> None:
    assert shared.client.get("/healthz", headers={"Host": "evil.example"}).status_code == 400


def test_the_request_after_the_last_place_is_told_when_to_come_again(
    bundles: dict[str, Path], tmp_path: Path, gate: Gate
) -> None:
    with (
        running(bundles["vqvae"], tmp_path / "serving", limits=Limits(concurrency=1, queue=2)) as run,
        ThreadPoolExecutor(3) as pool,
    ):
        waiting = [pool.submit(run.post) for _ in range(3)]
        run.until(lambda: run.server.workers.taken == 3 and gate.began == 1)
        refused = run.post()
        assert refused.status_code == 503 and "All 3 places are taken" in refused.json()["error"]
        assert int(refused.headers["retry-after"]) >= 1
        assert gate.began == 1
        assert run.client.get("/healthz").json() == {"alive": True}
        assert run.client.get("/readyz").status_code == 200
        figures = run.client.get("/metrics").text
        assert "timbreflow_transfers_running 1.0" in figures and "timbreflow_requests_in_server 3.0" in figures
        gate.open()
        assert [one.result().status_code for one in waiting] == [200] * 3
        assert run.post().status_code == 200


def send(run: Running, *, bytes_missing: int = 0) -> socket.socket:
    """A request on a connection that can be cut."""
    request = run.client.build_request("POST", "/transfer", files=FILES)
    body = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    connection = socket.create_connection((request.url.host, request.url.port))
    connection.sendall(f"POST /transfer HTTP/1.1\r\n{head}\r\n".encode() + body[: len(body) - bytes_missing])
    return connection


def test_clients_that_leave_give_their_place_back(bundles: dict[str, Path], tmp_path: Path, gate: Gate) -> None:
    with running(bundles["vqvae"], tmp_path / "serving", limits=Limits(concurrency=1, queue=2)) as run:
        runs = send(run)
        run.until(lambda: gate.began == 1)
        waits, uploads = send(run), send(run, bytes_missing=1000)
        run.until(lambda: run.server.workers.taken == 3)
        for connection, left in ((uploads, 2), (waits, 1), (runs, 0)):
            connection.close()
            run.until(lambda left=left: run.server.workers.taken == left)  # type: ignore[misc]
        run.until(run.is_empty)
        assert gate.began == 1
        gate.open()
        assert run.post().status_code == 200
        assert 'timbreflow_requests_total{path="/transfer",status="499"} 3.0' in run.client.get("/metrics").text


def test_a_client_that_does_not_fetch_its_answer_loses_it(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(_: TimbreTransfer, content: Path, styles: Any, out: Path, **__: Any) -> SimpleNamespace:
        out.write_bytes(bytes(30_000_000))
        return SimpleNamespace(notes=())

    monkeypatch.setattr(TimbreTransfer, "transfer_file", large)
    monkeypatch.setattr(server, "FETCH_SECONDS", 0.5)
    with running(bundles["vqvae"], tmp_path / "serving") as run, send(run) as connection:
        run.until(lambda: any(run.folder.iterdir()))
        run.until(run.is_empty)
        n_bytes = 0
        while part := connection.recv(1 << 20):
            n_bytes += len(part)
        assert n_bytes < 30_000_000


def test_figures_are_told(bundles: dict[str, Path], tmp_path: Path) -> None:
    with running(bundles["vqvae"], tmp_path / "serving", model="vqvae") as run:
        assert run.post().status_code == 200
        assert run.post(seed="x").status_code == 422
        run.client.get("/x/1")
        answer = run.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    for line in (
        'timbreflow_model_info{model="vqvae"} 1.0',
        'timbreflow_requests_total{path="/transfer",status="200"} 1.0',
        'timbreflow_requests_total{path="/transfer",status="422"} 1.0',
        'timbreflow_requests_total{path="other",status="404"} 1.0',
        'timbreflow_request_seconds_count{path="/transfer"} 2.0',
        "timbreflow_transfer_seconds_count 1.0",
        "timbreflow_audio_seconds_total 1.2",
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)


def test_a_server_is_alive_before_it_is_ready(bundles: dict[str, Path], tmp_path: Path) -> None:
    go = threading.Event()

    def load() -> TimbreTransfer:
        go.wait(20)
        return TimbreTransfer.load(bundles["vqvae"])

    with running(bundles["vqvae"], tmp_path / "serving", wait=False, load=load) as run:
        assert run.client.get("/healthz").status_code == 200
        for answer in (run.client.get("/readyz"), run.post()):
            assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
            assert "is still being loaded" in answer.json()["error"]
        go.set()
        run.until(lambda: run.client.get("/readyz").status_code == 200)
        assert run.client.get("/readyz").json() == {"ready": True, "model": "tiny"}


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ZeroDivisionError(), 500, "is in its log"),
        (MemoryError(), 507, "no room"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 507, "no room"),
    ],
    ids=["mistake", "memory", "torch-memory"],
)
def test_a_transfer_that_fails_is_said_and_leaves_nothing(
    shared: Running, error: Exception, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(TimbreTransfer, "transfer_file", broken)
        answer = shared.post()
    assert answer.status_code == status and words in answer.json()["error"]
    shared.until(shared.is_empty)
    assert shared.post().status_code == 200


def test_a_full_disk_is_a_507(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        answer = shared.post()
    assert answer.status_code == 507 and "no room" in answer.json()["error"]
    assert shared.post().status_code == 200


class Memory:
    """Keeps what it is told; fails when it was told so."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.fails = False

    def record(self, content: Any, style: Any, output: Any, sample_rate: int, **more: Any) -> None:
        if self.fails:
            raise RuntimeError
        self.told.append((content, style, output, sample_rate, more))


def test_each_transfer_is_recorded_and_a_recorder_that_fails_ends_nothing(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    memory = Memory()
    with running(bundles["vqvae"], tmp_path / "serving", recorder=memory, model="vqvae") as run:
        assert run.post(blend="1,3", files=[*FILES, ("style", ("b", CONTENT))]).status_code == 200
        assert run.post("/batch", files=[FILES[0], *FILES]).status_code == 200
        run.until(run.is_empty)
        memory.fails = True
        assert run.post().status_code == 200
        run.until(run.is_empty)
    assert len(memory.told) == 3
    lengths = [tuple(sound.shape for sound in told[:3]) for told in memory.told]
    n = round(1.2 * RATE)
    # Of a blend the heavier style.
    assert lengths == [((n,), (n,), (n,)), ((n,), (RATE,), (n,)), ((n,), (RATE,), (n,))]
    for *sounds, rate, more in memory.told:
        assert rate == RATE and all(sound.dtype == np.float32 for sound in sounds)
        assert more["model"] == "vqvae" and more["familiarity"] is None and more["seconds"] > 0


def start(bundle: Path, folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """`timbreflow serve` in a process of its own, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "timbreflow.cli", "serve", "--model", str(bundle), "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://\S+", line):
            return process, found[0]
    raise AssertionError(process.wait())


@pytest.mark.slow
def test_sigterm_finishes_what_runs_and_ends_with_0(bundles: dict[str, Path], tmp_path: Path) -> None:
    process, address = start(bundles["vqvae"], tmp_path)
    with process, ThreadPoolExecutor(2) as pool, httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        assert address.startswith("http://127.0.0.1:")
        # A socket of all interfaces would answer here too.
        with pytest.raises((ConnectionRefusedError, TimeoutError)):
            socket.create_connection(("127.0.0.2", int(address.rsplit(":", 1)[1])), timeout=1)
        while client.get("/readyz").status_code != 200:
            pass
        files = [("content", ("long.ogg", sound_file(melody(20, RATE), kind="OGG"))), FILES[1]]
        answers = [pool.submit(client.post, "/transfer", files=files) for _ in range(2)]
        while "timbreflow_requests_in_server 2.0" not in client.get("/metrics").text:
            assert not any(answer.done() for answer in answers)
        process.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert process.wait(120) == 0
        assert process.stderr is not None and process.stderr.read() == ""
    # onnxruntime, which the registry's gate imports, leaves .ses wherever it is imported.
    assert [path.name for path in tmp_path.iterdir() if path.name != ".ses"] == []


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    bundle = tmp_path / "broken"
    bundle.mkdir()
    (bundle / "config.json").write_text("{}")
    (bundle / "weights.safetensors").write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TimbreflowError, match="broken"):
        patch.setattr(signal, "signal", lambda *_: None)
        server.serve(bundle, model="broken", host="127.0.0.1", port=0, limits=Limits(), report=print)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"port": 99999}, "--port 99999 is not a port"),
        ({"queue": -1}, "--queue is -1; give 0 or more"),
        ({"concurrency": 0}, "--concurrency is 0; give 1 or more"),
        ({"max_seconds": float("nan")}, "--max-seconds is nan"),
        ({"host": "192.0.2.1"}, "192.0.2.1:8080 cannot be listened on"),
    ],
)
def test_mistakes_in_the_command_get_one_sentence(arguments: dict[str, Any], part: str) -> None:
    with pytest.raises(TimbreflowError, match=re.escape(part)):
        serve(**arguments)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_commands_of_the_documentation_work(bundles: dict[str, Path], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text().split("### An HTTP server")[1]
    commands = [f"curl {line}" for line in page.split("```")[1].replace("\\\n", " ").split("curl ")[1:]]
    assert len(commands) == 2
    with running(bundles["vqvae"], tmp_path / "serving") as run:
        for command in commands:
            command = command.replace("http://127.0.0.1:8080", str(run.client.base_url).rstrip("/"))
            command = re.sub(r"-o (\S+)", rf"--fail-with-body -sS -o {tmp_path}/\1", command)
            subprocess.run(["sh", "-c", command], cwd=ROOT, check=True)
    assert soundfile.info(tmp_path / "out.wav").duration == pytest.approx(8, abs=0.01)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == ["1.wav", "2.wav"]


def test_without_its_packages_the_command_says_how_to_get_them(tmp_path: Path) -> None:
    done = command("serve", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert re.search(r"needs the serve packages .*pip install '\.\[serve\]'", done.stderr), done.stderr
