"""Archives, packages and names reach no place but their own, and servers listen on the loopback alone."""

import io
import os
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from checkout import free_port

from tests.app.listening.conftest import small_study, write_small
from timbreflow.app import servers
from timbreflow.errors import TimbreflowError
from timbreflow.notes.sources.archives import Share, read_items
from timbreflow.notes.sources.corpora import fetch
from timbreflow.notes.sources.files import containers

MIDI = b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk\0\0\0\x0c\0\x90\x3c\x40\x60\x80\x3c\0\0\xff\x2f\0"


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.size = len(MIDI) if kind == tarfile.REGTYPE else 0
    return made


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_an_archive_writes_nothing_wherever_its_names_lead(form: str, tmp_path: Path) -> None:
    place = tmp_path / "in" / f"a.{form}"
    place.parent.mkdir()
    names = ["../../slip.mid", "/etc/slip.mid", "a/../../slip.mid", "..\\slip.mid", "C:\\slip.mid", "~/slip.mid"]
    if form == "zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name in names:
                archive.writestr(name, MIDI)
            link = zipfile.ZipInfo("link.mid")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
    else:
        with tarfile.open(place, "w:gz" if form == "tar.gz" else "w") as archive:
            for name in names:
                archive.addfile(member(name), io.BytesIO(MIDI))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
                archive.addfile(member(f"special-{kind.decode()}.mid", kind, "/etc/passwd"))
    before = everything(tmp_path)
    found = [
        item
        for container in containers(str(place), root=tmp_path, corpora=tmp_path)
        for item in read_items(container, max_bytes=10_000, share=Share())
    ]
    assert everything(tmp_path) == before
    assert sum(item.data == MIDI for item in found) == len(names)
    assert not any(b"root:" in item.data for item in found), "a link was followed"


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../../slip.mp3", tarfile.REGTYPE, ""),
        ("package/C5.mp3", tarfile.SYMTYPE, "/etc/passwd"),
        ("package/C5.mp3", tarfile.LNKTYPE, "../../../etc/passwd"),
        ("package/C5.mp3", tarfile.CHRTYPE, ""),
    ],
)
def test_a_package_that_reaches_out_is_refused(
    name: str, kind: bytes, link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        archive.addfile(member(name, kind, link), io.BytesIO(MIDI))
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "npm"
    program.write_text(f'#!/bin/sh\ncp "{tmp_path}/made.tgz" "$3-1.0.tgz"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    before = everything(tmp_path)
    with pytest.raises(TimbreflowError, match="damaged|holds no"):
        fetch("tonejs-xylophone", tmp_path / "corpora")
    assert [path for path in everything(tmp_path) if path != "corpora"] == before


def listening(pid: int) -> set[str]:
    """Addresses that a process and its children listen on."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return {
        connection.laddr.ip
        for one in family
        for connection in one.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
def test_a_listening_test_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    study = write_small(tmp_path / "study", small_study())
    command = [sys.executable, "-m", "timbreflow.cli", "listen", "serve", str(study), "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not (found := listening(process.pid)):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.2)
        finally:
            process.kill()
    assert found == {"127.0.0.1"}


@pytest.mark.slow
def test_prefect_and_mlflow_listen_on_the_loopback_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for server in servers.SERVERS:
        monkeypatch.setenv(server.port_variable, str(free_port()))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    try:
        servers.start(tmp_path)
        states = [servers._state(server, tmp_path) for server in servers.SERVERS]
        assert [listening(state["pid"]) for state in states if state] == [{"127.0.0.1"}] * 2
    finally:
        servers.stop(tmp_path)


def test_no_default_of_a_command_listens_elsewhere() -> None:
    """Hosts of all interfaces stand in the code only where an address for people is made of them."""
    root = Path(__file__).resolve().parents[2]
    found = [
        f"{path.name}: {line.strip()}"
        for folder in ("src", "flows")
        for path in (root / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if '"0.0.0.0"' in line or '"::"' in line
    ]
    assert found == ['server.py: if host not in ("0.0.0.0", "::"):']
