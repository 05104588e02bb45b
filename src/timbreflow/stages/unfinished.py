"""Work of a command that writes a folder of the caller's choice: kept where it fails, for one process at a time."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from timbreflow.errors import TimbreflowError


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the system refuses while `folder` is written into one sentence."""
    try:
        yield
    except OSError as error:
        raise TimbreflowError(
            f"{folder} cannot be written ({error.strerror or error}); make room on its disk and start again, "
            "what was read is kept."
        ) from error


@contextmanager
def unfinished(out: Path, key: str) -> Iterator[Path]:
    """The folder of unfinished work beside `out`, for one process at a time: kept where the work fails, removed after.

    Args:
        out: the folder to be made.
        key: of the sources and limits; what was begun with others is removed.
    """
    folder = out.with_name(f".{out.name}-unfinished")
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / "lock", blocking=False):
            for other in folder.iterdir():
                if other.name not in (key, "lock"):
                    shutil.rmtree(other)
            (folder / key).mkdir(parents=True, exist_ok=True)
            yield folder / key
            shutil.rmtree(folder)
    except Timeout:
        raise TimbreflowError(f"another process collects into {out}; wait for it, or name a new folder.") from None
