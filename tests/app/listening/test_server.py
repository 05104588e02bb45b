"""The page's server: who gets in, what the page is told, and what is refused."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient

from timbreflow.app.listening.server import ListeningTest, serve
from timbreflow.errors import TimbreflowError


@contextmanager
def running(test: ListeningTest) -> Iterator[str]:
    """The study at an address, until the block ends."""
    server = uvicorn.Server(uvicorn.Config(test.application(), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def test(folder: Path) -> Iterator[ListeningTest]:
    opened = ListeningTest(folder, open_to_all=True)
    yield opened
    opened.answers.close()


@pytest.fixture
def client(test: ListeningTest) -> TestClient:
    return TestClient(test.application(), base_url="http://127.0.0.1")


def begin(client: Any) -> tuple[str, list[dict[str, Any]]]:
    name = client.post("/api/sessions", json={}).json()["name"]
    return f"/api/sessions/{name}", client.get(f"/api/sessions/{name}").json()["steps"]


def right_form(step: dict[str, Any]) -> Any:
    return [50] * step["slots"] if step["kind"] == "mushra" else 0


def test_a_listener_answers_the_whole_study(client: TestClient, test: ListeningTest) -> None:
    place, steps = begin(client)
    for step in steps:
        reply = client.post(f"{place}/answers", json={"position": step["position"], "answer": right_form(step)})
        assert reply.status_code == 200 and ("right" in reply.json()) == step["training"]
    assert reply.json()["left"] == 0
    assert client.get("/api/study").json()["session"] == place.rsplit("/", 1)[1]
    assert all(step["answered"] for step in client.get(place).json()["steps"])
    assert test.answers.counts()["answers"] == len(steps)


def test_the_page_learns_neither_systems_nor_catch_trials(client: TestClient) -> None:
    place, steps = begin(client)
    told = json.dumps([client.get("/api/study").json(), steps]) + str(client.get(f"{place}/sound/8/0").headers)
    assert not any(word in told.lower() for word in ("vqvae", "glow", "oracle", "catch", "target", "t0", "hidden"))
    assert {step["kind"] for step in steps} == {"headphones", "ab", "abx", "mushra"}


def test_sounds_are_those_of_the_step_and_parts_of_them_can_be_asked_for(
    client: TestClient, test: ListeningTest
) -> None:
    place, steps = begin(client)
    at = next(step["position"] for step in steps if step["kind"] == "ab" and not step["training"])
    step = test.answers.steps(place.rsplit("/", 1)[1], client.cookies[test._cookie])[at]
    sound = client.get(f"{place}/sound/{at}/1")
    assert sound.content == (test._folder / step.trial.clips[step.slots[1]]).read_bytes()
    part = client.get(f"{place}/sound/{at}/1", headers={"Range": "bytes=0-99"})
    assert part.status_code == 206 and part.content == sound.content[:100]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"position": 0, "answer": 7}, 422),
        ({"position": 99, "answer": 0}, 422),
        ({"position": "../../x", "answer": 0}, 422),
        ({"answer": 0}, 422),
        ([1, 2], 422),
        ("text", 422),
        ({"position": 0, "answer": 0, "seconds": "x"}, 422),
        ({"position": 0, "answer": [0] * 9000}, 413),
    ],
)
def test_wrong_answers_get_one_sentence(client: TestClient, test: ListeningTest, body: Any, status: int) -> None:
    place, _ = begin(client)
    reply = client.post(f"{place}/answers", json=body)
    assert reply.status_code == status and reply.json()["error"].endswith("nothing was saved.")
    assert test.answers.counts()["answers"] == 0


def test_votes_twice_and_for_another_get_one_sentence(client: TestClient, test: ListeningTest) -> None:
    place, _ = begin(client)
    body = {"position": 0, "answer": 0}
    assert client.post(f"{place}/answers", json=body).status_code == 200
    twice = client.post(f"{place}/answers", json=body)
    assert (twice.status_code, twice.json()["error"]) == (
        409,
        "This step was answered before; the first answer is kept.",
    )
    stranger = TestClient(test.application(), base_url="http://127.0.0.1")
    begin(stranger)
    for reply in (stranger.post(f"{place}/answers", json={"position": 1, "answer": 0}), stranger.get(place)):
        assert reply.status_code == 403 and "another listener's" in reply.json()["error"]
    assert test.answers.counts()["answers"] == 1


@pytest.mark.parametrize(
    "path",
    ["/api/sessions/..%2f..%2fx", "/api/sessions/x/sound/0/..%2f..%2fstudy.yaml", "/..%2f..%2fx", "/study.yaml",
     "/answers.sqlite", "{place}/sound/0/..%2f..%2fstudy.yaml", "{place}/sound/-1/0", "{place}/sound/0/reference"],
)  # fmt: skip
def test_names_are_never_paths(client: TestClient, path: str) -> None:
    place, _ = begin(client)
    reply = client.get(path.format(place=place))
    assert reply.status_code in (403, 404) and set(reply.json()) == {"error"}


def test_a_clip_that_goes_missing_gets_one_sentence_and_loses_nothing(client: TestClient, test: ListeningTest) -> None:
    place, _ = begin(client)
    client.post(f"{place}/answers", json={"position": 0, "answer": 0})
    for path in (test._folder / "clips").iterdir():
        path.unlink()
    reply = client.get(f"{place}/sound/7/0")
    assert reply.status_code == 404 and "your answers so far are saved" in reply.json()["error"]
    assert test.answers.counts()["answers"] == 1
    with pytest.raises(TimbreflowError, match="is missing, and trial"):
        ListeningTest(test._folder, open_to_all=True)


def test_beyond_the_loopback_only_the_whole_link_opens(folder: Path) -> None:
    test = ListeningTest(folder, open_to_all=False)
    client = TestClient(test.application(), base_url="http://192.0.2.7")
    assert client.get("/").status_code == 403 and client.get("/?token=x").status_code == 403
    assert client.post("/api/sessions", json={}).status_code == 403
    opened = client.get(f"/?token={test.answers.token}")
    assert opened.status_code == 200 and opened.url.query == b"" and "Listening test" in opened.text
    assert client.post("/api/sessions", json={}).status_code == 201
    test.answers.close()


def test_a_taken_port_is_said(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(TimbreflowError, match="name another --port"):
        serve(folder, host="127.0.0.1", port=taken.getsockname()[1])


def test_other_names_of_the_loopback_are_refused(test: ListeningTest) -> None:
    assert TestClient(test.application(), base_url="http://evil.example").get("/").status_code == 400


def test_fifty_listeners_at_once_lose_no_vote(test: ListeningTest) -> None:
    with running(test) as address:

        def listen(_: int) -> int:
            with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
                place, steps = begin(client)
                for step in steps:
                    body = {"position": step["position"], "answer": right_form(step)}
                    assert client.post(f"{place}/answers", json=body).status_code == 200
                return len(steps)

        with ThreadPoolExecutor(50) as pool:
            sent = sum(pool.map(listen, range(50)))
    assert test.answers.counts()["answers"] == sent
    table = test.answers.table()
    assert table["listener"].nunique() == 50 and not table.duplicated(["listener", "position"]).any()
