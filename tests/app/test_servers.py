"""Servers of a checkout: found by their state file, refused on a busy port, stopped with their children."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from timbreflow.app import servers
from timbreflow.errors import TimbreflowError
from timbreflow.network import PROXIES


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((servers.HOST, 0))
        return int(probe.getsockname()[1])


def test_a_busy_port_is_one_sentence_and_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind((servers.HOST, 0))
        busy.listen()
        port = busy.getsockname()[1]
        monkeypatch.setenv("TIMBREFLOW_PREFECT_PORT", str(free_port()))
        monkeypatch.setenv("TIMBREFLOW_MLFLOW_PORT", str(port))
        with pytest.raises(TimbreflowError, match=rf"Port {port}.*TIMBREFLOW_MLFLOW_PORT={port + 1}"):
            servers.start(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["x", "0", "70000", "-1"])
def test_a_port_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBREFLOW_PREFECT_PORT", value)
    with pytest.raises(TimbreflowError, match="TIMBREFLOW_PREFECT_PORT"):
        _ = servers.PREFECT.wanted_port


def test_without_a_server_flows_fall_back_to_this_checkouts_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    environment = servers.prefect_environment(tmp_path)
    assert environment["PREFECT_HOME"] == str(tmp_path / ".prefect")
    assert "PREFECT_API_URL" not in environment


def test_what_another_project_set_for_prefect_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = {
        "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////elsewhere.db",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////elsewhere.db",
        "PREFECT_SERVER_API_BASE_PATH": "/x",
        "PREFECT_SERVER_API_AUTH_STRING": "a:b",
        "PREFECT_PROFILE": "elsewhere",
        "PREFECT_PROFILES_PATH": "/elsewhere.toml",
        "PREFECT_LOCAL_STORAGE_PATH": "/elsewhere",
    }
    kept = {"PREFECT_API_KEY": "k", "PREFECT_API_AUTH_STRING": "a:b", "PREFECT_CLIENT_CUSTOM_HEADERS": "{}"}
    kept |= {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT__FLOW_RUN_ID": "1"}
    for name, value in (foreign | kept | {"PREFECT_HOME": "/elsewhere"}).items():
        monkeypatch.setenv(name, value)
    environment = servers.prefect_environment(tmp_path)
    assert not set(foreign) & set(environment)
    assert kept.items() <= environment.items()
    assert environment["PREFECT_HOME"] == str(tmp_path / ".prefect")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://lab:4200", "http://lab:4200/api"),
        ("http://lab:4200/api/", "http://lab:4200/api"),
        (
            "https://api.prefect.cloud/api/accounts/1/workspaces/2",
            "https://api.prefect.cloud/api/accounts/1/workspaces/2",
        ),
    ],
)
def test_the_address_of_a_labs_server_ends_in_api(
    given: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", given)
    assert servers.prefect_environment(tmp_path)["PREFECT_API_URL"] == used


def test_the_pages_of_a_server_with_a_password_are_named_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://lab:word@127.0.0.1:4200/api")
    environment = servers.prefect_environment(tmp_path)
    assert environment["PREFECT_UI_URL"] == "http://127.0.0.1:4200"
    assert environment["PREFECT_API_URL"] == "http://lab:word@127.0.0.1:4200/api"


@pytest.mark.parametrize("name", PROXIES)
def test_servers_are_found_and_started_without_the_proxy(
    name: str, fake_server: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    fake_server("answers", "answers")
    try:
        assert set(servers.start(tmp_path)) == {"prefect", "mlflow"}
    finally:
        servers.stop(tmp_path)


def test_a_process_that_is_no_server_of_ours_is_never_stopped(tmp_path: Path) -> None:
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "prefect.json").write_text(json.dumps({"pid": os.getpid(), "port": free_port()}))
    assert servers.running_url(servers.PREFECT, tmp_path) is None
    assert servers.stop(tmp_path) == []


@pytest.fixture
def fake_server(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a server of a few lines of Python, under the command line that stop() looks for."""
    answer = (
        "import sys, http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "    def log_message(self, *a): pass\n"
        "h.HTTPServer(('127.0.0.1', int(sys.argv[-1])), H).serve_forever()\n"
    )
    first = "import os\nif not os.path.exists('tried'): open('tried', 'w'); raise SystemExit(1)\n"
    code = {
        "answers": answer,
        "dies": "raise SystemExit(1)",
        "dies at first": first + answer,
        "is silent": "import time; time.sleep(60)",
    }
    behaviour: dict[str, str] = {}
    genuine = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        name, port = command[2], command[command.index("--port") + 1]
        return genuine([sys.executable, "-c", code[behaviour[name]], "-m", name, "server", port], **options)

    def behave(prefect: str, mlflow: str) -> None:
        behaviour.update(prefect=prefect, mlflow=mlflow)
        for name in behaviour:
            monkeypatch.setenv(f"TIMBREFLOW_{name.upper()}_PORT", str(free_port()))
        monkeypatch.setattr(servers.subprocess, "Popen", popen)

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return behave


def test_a_server_that_dies_at_first_is_started_again(fake_server: Callable[..., None], tmp_path: Path) -> None:
    fake_server("dies at first", "answers")
    try:
        assert set(servers.start(tmp_path)) == {"prefect", "mlflow"}
    finally:
        servers.stop(tmp_path)


@pytest.mark.parametrize(("prefect", "mlflow"), [("answers", "dies"), ("dies", "answers"), ("answers", "is silent")])
def test_when_one_server_fails_the_other_is_stopped(
    prefect: str, mlflow: str, fake_server: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server(prefect, mlflow)
    monkeypatch.setattr(servers, "STARTUP_SECONDS", 3)
    pids: list[int] = []
    spawn = servers._spawn

    def remembering(server: servers.Server, root: Path) -> Any:
        process = spawn(server, root)
        pids.append(process.pid)
        return process

    monkeypatch.setattr(servers, "_spawn", remembering)
    with pytest.raises(TimbreflowError, match="stopped while starting|did not answer"):
        servers.start(tmp_path)
    assert len(pids) == 2 + [prefect, mlflow].count("dies")
    assert not any(servers._alive(pid) for pid in pids)
    assert list((tmp_path / ".run").glob("*.json")) == []


def test_a_server_that_ran_before_survives_the_failure_of_another(
    fake_server: Callable[..., None], tmp_path: Path
) -> None:
    fake_server("answers", "dies")
    url = servers.start(tmp_path, [servers.PREFECT])["prefect"]
    try:
        with pytest.raises(TimbreflowError, match="mlflow server stopped"):
            servers.start(tmp_path)
        assert servers.running_url(servers.PREFECT, tmp_path) == url
    finally:
        assert servers.stop(tmp_path) == ["prefect"]


def test_an_mlflow_server_elsewhere_is_used_and_none_started(
    fake_server: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server("answers", "dies")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.invalid/")
    try:
        assert servers.start(tmp_path)["mlflow"] == "https://mlflow.invalid"
        assert not (tmp_path / ".run" / "mlflow.json").exists()
    finally:
        assert servers.stop(tmp_path) == ["prefect"]


def test_without_ps_a_process_is_known_by_proc_or_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input(print('ready', flush=True))", "-m", "mlflow", "server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        # A process that has just begun has no command line for an instant.
        assert process.stdout is not None
        process.stdout.readline()
        monkeypatch.setenv("PATH", "/nowhere")
        if Path("/proc").is_dir():
            assert "-m mlflow server" in servers._command_line(process.pid)
        monkeypatch.setattr(servers.Path, "read_bytes", lambda path: (_ for _ in ()).throw(FileNotFoundError()))
        assert servers._command_line(process.pid) == ""
        monkeypatch.undo()
        process.communicate(b"\n")


@pytest.mark.slow
def test_start_twice_then_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBREFLOW_PREFECT_PORT", str(free_port()))
    monkeypatch.setenv("TIMBREFLOW_MLFLOW_PORT", str(free_port()))
    urls = servers.start(tmp_path)
    try:
        assert servers.start(tmp_path) == urls
        assert servers.prefect_environment(tmp_path)["PREFECT_API_URL"] == urls["prefect"] + "/api"
        with urllib.request.urlopen(urls["mlflow"] + "/health") as response:
            assert response.status == 200
    finally:
        assert servers.stop(tmp_path) == ["prefect", "mlflow"]
    assert servers.running_url(servers.PREFECT, tmp_path) is None
