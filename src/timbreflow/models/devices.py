"""Which device trains and transfers, taken from the environment: it must never invalidate a stage."""

import os

import torch

from timbreflow.errors import TimbreflowError
from timbreflow.workers import available_cores, process_count

VARIABLE = "TIMBREFLOW_DEVICE"


def resolve_device(name: str | None = None) -> torch.device:
    """Turn auto, cpu, cuda or cuda:N into a device that is there, and give torch the cores that this process may use.

    Each process of a torchrun takes the CUDA device of its number on its machine, unless one is named.

    Args:
        name: overrides the environment variable TIMBREFLOW_DEVICE (default auto: CUDA where there is one).

    Raises:
        TimbreflowError: an unknown name, or CUDA is asked for and absent.
    """
    asked = name if name is not None else os.environ.get(VARIABLE, "auto")
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = asked.partition(":")
    if asked == "cuda" and process_count() > 1:
        index = os.environ.get("LOCAL_RANK", "0")
        asked = f"cuda:{index}"
    if kind not in {"cpu", "cuda"} or (index and not index.isdigit()):
        raise TimbreflowError(f"{VARIABLE} is {asked!r}; set it to auto, cpu, cuda or cuda:N.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise TimbreflowError(
            f"{VARIABLE} asks for {asked}, but torch sees {count} CUDA devices; set it to cpu or auto."
        )
    if kind == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
    return torch.device(asked)
