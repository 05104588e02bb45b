"""A server's folder for what people give it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp

from timbreflow.errors import TimbreflowError


@contextmanager
def private_folder(prefix: str) -> Iterator[Path]:
    """A folder below TMPDIR that its owner alone can read, deleted at the end, or at the next start after a kill.

    A lock on the folder says that its server lives.

    Args:
        prefix: of its name, one for each kind of server.

    Raises:
        TimbreflowError: no folder can be made.
    """
    try:
        folder = Path(mkdtemp(prefix=f".{prefix}"))
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise TimbreflowError(
            f"{gettempdir()} cannot be written ({error.strerror}), and uploads are kept there; make room, or "
            "set TMPDIR to another folder."
        ) from error
    with suppress(OSError):  # a file system without locks, where nobody can take one either
        fcntl.flock(lock, fcntl.LOCK_EX)
    # Other servers look at it from here on.
    folder = folder.rename(folder.with_name(folder.name[1:]))
    try:
        _delete_forgotten(prefix)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _delete_forgotten(prefix: str) -> None:
    for folder in Path(gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # another user's, or a server that lives has locked it
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
