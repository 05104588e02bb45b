"""The store is made once, whoever asks first."""

import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.strangers import KINDS, stranger
from timbreflow.errors import TimbreflowError
from timbreflow.network import without_password
from timbreflow.tracking import connection
from timbreflow.tracking.registry import resolve


@pytest.mark.slow
def test_two_processes_may_make_the_store_at_once(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from timbreflow.tracking.connection import connect, experiment_id\n"
    script += "root = Path(sys.argv[1]); print(experiment_id(connect(root), root))"
    both = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ids = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(ids) == 1


def released(root: Path) -> Path:
    """Files as a released Glow has them."""
    folder = root / "released" / "glow"
    folder.mkdir(parents=True)
    for name in ("config.json", "weights.safetensors"):
        (folder / name).touch()
    return folder


def check_fallback(address: str, root: Path) -> str:
    """A transfer takes the released model and says why; other commands end; returns what they say."""
    found = resolve("glow", root=root)
    address = without_password(address)
    assert found.folder == root / "released" / "glow"
    assert f"the registry was not asked: MLFLOW_TRACKING_URI={address} cannot be used" in found.description
    with pytest.raises(TimbreflowError, match=re.escape(f"MLFLOW_TRACKING_URI={address} cannot be used")) as caught:
        resolve("models:/timbreflow-glow@champion", root=root)
    return str(caught.value)


def test_a_store_whose_first_start_was_killed_ends_no_transfer(tmp_path: Path) -> None:
    folder = released(tmp_path)
    (tmp_path / ".mlflow").mkdir()
    with sqlite3.connect(tmp_path / ".mlflow" / "mlflow.db") as store:
        store.execute("CREATE TABLE experiments (half INTEGER)")
    found = resolve("glow", root=tmp_path)
    assert found.folder == folder
    assert "the registry was not asked: The database of the project's MLflow store" in found.description
    with pytest.raises(TimbreflowError, match="move the file away"):
        resolve("models:/timbreflow-glow@champion", root=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_no_mlflow_is_said_and_a_transfer_needs_none(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(tmp_path)
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 3)
    with stranger(kind) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        began = time.monotonic()
        said = check_fallback(address, tmp_path)
        assert time.monotonic() - began < 30
    reasons = {"401": "credentials", "silent": "no answer", "drips": "no answer"}
    assert reasons.get(kind, "what answers is not MLflow") in said
    assert "Router" not in said


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1", "https://mlflow.invalid", "postgresql://lab@127.0.0.1:1/mlflow", "foo://x"]
)
def test_a_store_that_is_not_there_is_said(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    check_fallback(address, tmp_path)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        *((wrong, "begins with one of") for wrong in ("s3://bucket/x", "./mlruns", "file:///x", "127.0.0.1:5000")),
        ("sqlite:////proc/nowhere/a.db", "No such file or directory"),
        ("sqlite:////proc/a.db", "unable to open database file"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://127.0.0.1:99999", "Port out of range"),
    ],
)
def test_an_address_that_cannot_be_one_is_said_at_once(
    address: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    began = time.monotonic()
    with pytest.raises(connection.StoreUnavailable, match=re.escape(f"{address} cannot be used")) as caught:
        connection.connect(tmp_path)
    assert reason in str(caught.value)
    assert time.monotonic() - began < 20  # MLflow alone tries for 100 s
    connection.has_store(tmp_path)


def test_a_password_is_not_shown_and_a_missing_file_is_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://lab:secret@127.0.0.1:1/mlflow")
    with pytest.raises(TimbreflowError) as caught:
        connection.connect(tmp_path)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nothing.db")
    assert not connection.has_store(tmp_path)
