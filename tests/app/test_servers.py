"""Servers of a checkout: found by their state file, refused on a busy port, stopped with their children."""

import json
import os
import socket
import urllib.request
from pathlib import Path

import pytest

from timbreflow.app import servers
from timbreflow.errors import TimbreflowError


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


def test_a_process_that_is_no_server_of_ours_is_never_stopped(tmp_path: Path) -> None:
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "prefect.json").write_text(json.dumps({"pid": os.getpid(), "port": free_port()}))
    assert servers.running_url(servers.PREFECT, tmp_path) is None
    assert servers.stop(tmp_path) == []


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
