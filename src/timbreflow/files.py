"""Atomic writes, digests and stable hashes."""

import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timbreflow.errors import TimbreflowError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` with the same suffix, renamed onto it on success and removed on failure.

    Links are followed. An old file keeps its permissions; a new one gets those of the umask.
    """
    path, mode = _written(Path(path))
    if mode is not None and not path.is_file():
        raise TimbreflowError(f"{path} is not a file that could be replaced; name another one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        if mode is not None:
            temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary sibling folder of `path` that replaces it on success and is removed on failure.

    Links and permissions are treated as by `atomic_file`.
    """
    path, mode = _written(Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        if mode is not None:
            temporary.chmod(mode)
        if path.exists():
            # Renaming is quick, deleting is not: a kill never leaves half a folder under this name.
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:40]}-old-") as old:
                os.replace(path, Path(old) / path.name)
                os.replace(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _written(path: Path) -> tuple[Path, int | None]:
    """The path behind links, and the permissions of the file or folder that is there."""
    place = Path(os.path.realpath(path))
    return place, stat.S_IMODE(place.stat().st_mode) if place.exists() else None


def _temporary_name(path: Path) -> Path:
    """A new hidden name beside a path; `tempfile` would make it readable by nobody else."""
    # Names are limited to 255 bytes, and a character may take four.
    return path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")


def link_or_copy(source: Path, destination: Path) -> None:
    """Give a file a second name, or a copy where the file system has no hard links."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys; refuses NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        TimbreflowError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TimbreflowError(f"{path} is missing; run the stage that makes it, or name another file.") from error
    except (ValueError, RecursionError) as error:
        raise TimbreflowError(f"{path} is not valid JSON ({error}); delete it and make it again.") from error


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stable_hash(*parts: Any) -> int:
    """64-bit integer that depends only on the JSON of `parts`: the same on every machine and Python."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
