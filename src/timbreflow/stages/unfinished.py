"""Unfinished work that the next run continues: that of a command, beside its output, and a stage's shards."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn errors of the system while `folder` is written into one sentence."""
    try:
        yield
    except OSError as error:
        raise TimbreflowError(
            f"{folder} cannot be written ({error.strerror or error}); make room on its disk and start again; "
            "finished work is kept."
        ) from error


@contextmanager
def unfinished(out: Path, key: str) -> Iterator[Path]:
    """The folder of unfinished work beside `out`, for one process at a time: kept where the work fails, removed after.

    `key` is a hash of the sources and limits; unfinished work with another key is removed.
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


def note_reused(scratch: Path, finished: Sequence[Path]) -> None:
    """Keep in the scratch folder how many shards an interrupted run has left; `finished` is what each shard makes."""
    write_json(scratch / "plan.json", {"reused": sum(path.exists() for path in finished)})


def require_finished(stage: str, scratch: Path, finished: Sequence[Path]) -> int:
    """How many of the shards were reused, once all of them are there.

    Raises:
        TimbreflowError: a shard is missing.
    """
    for path in finished:
        if not path.exists():
            raise TimbreflowError(f"{path} is missing; run {stage} again, it continues from here.")
    plan = scratch / "plan.json"
    return int(read_json(plan)["reused"]) if plan.is_file() else 0
