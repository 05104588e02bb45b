"""Requests that no browser makes."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from tests.app.listening.conftest import small_study, write_small
from timbreflow.app.listening.server import ListeningTest


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, int]]:
    test = ListeningTest(write_small(tmp_path / "study", small_study()), open_to_all=True)
    server = uvicorn.Server(uvicorn.Config(test.application(), log_level="critical", access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        yield bound.getsockname()
        server.should_exit = True
        thread.join(10)
    test.answers.close()


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /api/sessions/x/sound/99999999999999999999999999/0",
        f"GET /api/sessions/x/sound/{'9' * 5000}/0",
        "GET /api/sessions/x/sound/%C2%B2/0",
        "GET /api/sessions/%00/sound/0/0",
        "GET /?token=%ff%ed%a0%80",
        "POST /api/sessions/x/answers HTTP/1.1\r\nContent-Length: +5",
        "POST /api/sessions/x/answers HTTP/1.1\r\nTransfer-Encoding: chunked",
        "POST /api/sessions/x/answers HTTP/1.1\r\nContent-Length: 99999999999999999999999999999999",
    ],
)
def test_odd_requests_are_refused_and_not_an_error_of_the_server(request_line: str, address: tuple[str, int]) -> None:
    line = request_line if " HTTP/" in request_line else f"{request_line} HTTP/1.1"
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(f"{line}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = connection.recv(10_000)
    status = int(answer.split(b" ", 2)[1])
    assert 200 <= status < 500, answer
