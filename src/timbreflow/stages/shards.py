"""Work of a worker of any runner: one shard of a stage, in any process, on any machine."""

import multiprocessing
import os
import socket
import threading
from importlib import import_module
from typing import Any

from timbreflow.errors import TimbreflowError
from timbreflow.stages.layout import Layout


def run_shard(stage: str, shard: Any, *sections: Any, layout: Layout) -> None:
    """Run one shard that `plan` of the module `timbreflow.stages.<stage>` returned, with the same sections.

    Raises:
        TimbreflowError: the checkout is not on this machine, or the stage says so.
    """
    end_with_parent()
    if not layout.root.is_dir():
        raise TimbreflowError(
            f"{layout.root} is not on {socket.gethostname()}; mount the checkout at the same path on every machine of "
            "the cluster."
        )
    import_module(f"timbreflow.stages.{stage}").run_one(shard, *sections, layout=layout)


def end_with_parent() -> None:
    """In a worker process: end when the process that started it ends, also when that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None and not any(thread.name == "end with parent" for thread in threading.enumerate()):
        threading.Thread(target=_join, args=(parent,), name="end with parent", daemon=True).start()


def _join(parent: "multiprocessing.process.BaseProcess") -> None:
    parent.join()
    os._exit(1)
