"""A small file system, which is full soon, and one that nobody can write."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mount a tmpfs of that size at `folder`; skips the test where nobody may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system needs the rights to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(*folders: Path) -> Iterator[None]:
    """Nothing can be written below these folders; skips the test where nobody may mount them so."""
    if os.geteuid() != 0:
        pytest.skip("a read-only file system needs the rights to mount one")
    mounted = []
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            if subprocess.run(["mount", "--bind", folder, folder], check=False, capture_output=True).returncode:
                pytest.skip("a read-only file system needs the rights to mount one")
            mounted.append(folder)
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)
