"""How many things this process may do at once."""

import os

from timbreflow.errors import TimbreflowError

VARIABLE = "TIMBREFLOW_WORKERS"


def available_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count() -> int:
    """Workers to start: TIMBREFLOW_WORKERS, else one a core.

    Raises:
        TimbreflowError: TIMBREFLOW_WORKERS is not a positive whole number.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked and not (asked.isdigit() and int(asked) > 0):
        raise TimbreflowError(f"{VARIABLE} is {asked!r}; set it to a number of workers, such as 4, or unset it.")
    return int(asked) if asked else available_cores()


def process_rank() -> int:
    """Number of this process among those that `torchrun` started, from 0; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Processes that `torchrun` started, on all machines; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_process_count() -> int:
    """Those of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
