"""A server of a tiny model at an address, and what is sent to it."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from tests.inference.conftest import bundles  # noqa: F401
from tests.inference.tiny import melody
from timbreflow.app.serving.limits import Limits
from timbreflow.app.serving.server import TransferServer
from timbreflow.app.web import server_of
from timbreflow.inference.transfer import TimbreTransfer

RATE = 16000


def sound_file(sound: np.ndarray, *, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


CONTENT = sound_file(melody(1.2, 22050), rate=22050)
STYLE = sound_file(melody(1, RATE, seed=1))
FILES = [("content", ("melody.wav", CONTENT)), ("style", ("cello.wav", STYLE))]


class Running:
    """A server that answers.

    Attributes:
        server: the application's.
        folder: where it keeps requests.
        client: of its address.
    """

    def __init__(self, server: TransferServer, folder: Path, address: str) -> None:
        self.server, self.folder = server, folder
        self.client = httpx.Client(base_url=address, timeout=60, trust_env=False)

    def post(self, path: str = "/transfer", *, files: Any = FILES, **fields: Any) -> httpx.Response:
        return self.client.post(path, files=files, data=fields)

    def is_empty(self) -> bool:
        """Whether no request is in the server, and none has left a file."""
        return self.server.workers.taken == 0 and not any(self.folder.iterdir())

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened, which takes far less than this."""
        end = time.monotonic() + 20
        while not happened():
            assert time.monotonic() < end
            time.sleep(0.01)


@contextmanager
def running(bundle: Path, folder: Path, *, wait: bool = True, **options: Any) -> Iterator[Running]:
    """A server of the bundle in a thread, until the block ends."""
    options = {"model": "tiny", "limits": Limits(), "load": lambda: TimbreTransfer.load(bundle), **options}
    folder.mkdir(exist_ok=True)
    transfers = TransferServer(options.pop("load"), folder=folder, **options)
    server = server_of(transfers.application())
    server.config.port = 0
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        run = Running(transfers, folder, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
        if wait:
            run.until(lambda: transfers.workers.ready)
        with run.client:
            yield run
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def shared(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:  # noqa: F811
    """One server of a VQ-VAE for all tests that leave it as it is."""
    limits = Limits(max_bytes=400_000, max_seconds=4)
    with running(bundles["vqvae"], tmp_path_factory.mktemp("shared") / "serving", limits=limits) as run:
        yield run


class Gate:
    """Holds transfers before they begin, until they are let go or their client has left."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        self.began = 0
        transfer_file = TimbreTransfer.transfer_file

        def held(session: TimbreTransfer, *paths: Any, cancel: Callable[[], bool], **options: Any) -> Any:
            self.began += 1
            while not self._open.wait(0.01):
                if cancel():
                    break
            return transfer_file(session, *paths, cancel=cancel, **options)

        patch.setattr(TimbreTransfer, "transfer_file", held)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open()
