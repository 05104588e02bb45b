"""Remotes as docs/operations.md gives them: what is pushed is pulled in a second clone, and no stage runs there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.services import free_port, object_store, running, wait_for
from tests.dvc_cache import flip
from tests.runbook import blocks, type_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PIPELINE = """\
stages:
  make:
    cmd: mkdir -p data && cp params.yaml data/made.txt && echo made
    deps: [params.yaml]
    outs: [data]
  read:
    cmd: wc -c data/made.txt > size.txt
    deps: [data]
    outs: [size.txt]
"""
SFTP = """\
import asyncio, sys, asyncssh
from pathlib import Path

class Server(asyncssh.SSHServer):
    def begin_auth(self, username): return True
    def public_key_auth_supported(self): return True
    def validate_public_key(self, username, key):
        return username == 'lab' and key == asyncssh.read_public_key(sys.argv[2] + '.pub')

async def main():
    key = asyncssh.generate_private_key('ssh-ed25519')
    server = await asyncssh.listen('127.0.0.1', int(sys.argv[1]), server_factory=Server, server_host_keys=[key],
                                   sftp_factory=True, allow_scp=False)
    print('ready', flush=True)
    await server.wait_closed()

asyncio.run(main())
"""


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=root, check=True)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "DVC_NO_ANALYTICS": "1"}


@pytest.fixture
def checkout(tmp_path: Path, environment: dict[str, str]) -> Path:
    """A small pipeline that has run once and is in git."""
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "-q")
    (root / ".venv").symlink_to(sys.prefix)
    (root / ".gitignore").write_text(".venv\n")
    type_in(".venv/bin/dvc init -q", root, environment)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "params.yaml").write_text("a: 1\n")
    assert "Running stage" in type_in(".venv/bin/dvc repro", root, environment)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "run")
    return root


def pull_in_a_clone(checkout: Path, environment: dict[str, str], local: str = "") -> None:
    """The page's command of a colleague brings all of it, and runs nothing."""
    git(checkout, "commit", "-qam", "remote")
    clone = checkout.parent / "clone"
    git(checkout.parent, "clone", "-q", str(checkout), str(clone))
    (clone / ".venv").symlink_to(sys.prefix)
    if local:
        type_in(local, clone, environment)
    (colleague,) = blocks("A colleague")
    pull = next(line for line in colleague.splitlines() if "dvc repro" in line)
    output = type_in(pull, clone, environment)
    assert "Running stage" not in output, output
    assert (clone / "data" / "made.txt").read_text() == "a: 1\n"
    assert (clone / "size.txt").is_file()


def test_a_folder(checkout: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (block,) = blocks("Local", {"/mnt/store": str(tmp_path / "store")})
    type_in(block, checkout, environment)
    pull_in_a_clone(checkout, environment)


def test_what_is_damaged_in_a_remote_is_not_pulled(checkout: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (block,) = blocks("Local", {"/mnt/store": str(tmp_path / "store")})
    type_in(block, checkout, environment)
    flip(
        next(one for one in (tmp_path / "store" / "files").rglob("*") if one.is_file() and one.read_text() == "a: 1\n")
    )
    for name in ("data", ".dvc/cache"):
        shutil.rmtree(checkout / name)
    assert "data" in type_in("! .venv/bin/dvc pull", checkout, environment)
    assert not (checkout / "data").exists()


def test_s3(checkout: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("dvc_s3", reason="S3 is an extra: pip install -e '.[s3]'")
    with object_store("timbreflow") as store:
        (block,) = blocks("S3", {"http://store.lab:9000": store})
        type_in(block, checkout, environment)
        keys = {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "SECRET"}
        assert "SECRET" not in (checkout / ".dvc" / "config").read_text()
        pull_in_a_clone(checkout, environment | keys)


@pytest.fixture
def ssh(tmp_path: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """A server of SFTP that knows one key; yields what the page's examples stand for."""
    pytest.importorskip("dvc_ssh", reason="ssh is an extra: pip install -e '.[ssh]'")
    import asyncssh

    key = tmp_path / "id_ed25519"
    pair = asyncssh.generate_private_key("ssh-ed25519")
    pair.write_private_key(key)
    pair.write_public_key(f"{key}.pub")
    key.chmod(0o600)
    port, log = free_port(), tmp_path / "sftp.log"
    with running([sys.executable, "-c", SFTP, str(port), str(key)], log, environment) as process:
        wait_for(lambda: "ready" in log.read_text(), process, "the SFTP server", log)
        yield {
            "ssh://store.lab:22/srv/store": f"ssh://127.0.0.1:{port}{tmp_path}/store",
            "NAME": "lab",
            "~/.ssh/id_ed25519": str(key),
        }


def test_ssh(checkout: Path, environment: dict[str, str], ssh: dict[str, str], tmp_path: Path) -> None:
    (block,) = blocks("ssh", ssh)
    type_in(block, checkout, environment)
    assert list((tmp_path / "store").rglob("*"))
    assert "keyfile" not in (checkout / ".dvc" / "config").read_text()
    own = "\n".join(line for line in block.splitlines() if "--local" in line)
    pull_in_a_clone(checkout, environment, own)


def test_data_of_an_earlier_commit_come_back(checkout: Path, environment: dict[str, str]) -> None:
    (checkout / "params.yaml").write_text("a: 2\n")
    type_in(".venv/bin/dvc repro", checkout, environment)
    git(checkout, "commit", "-qam", "another run")
    _, back, _ = blocks("Upgrade and roll back", {"COMMIT": "HEAD~1"})
    type_in(back, checkout, environment)
    assert (checkout / "data" / "made.txt").read_text() == "a: 1\n"
