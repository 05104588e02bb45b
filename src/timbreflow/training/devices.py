"""How many processes load data beside a model."""

import torch

from timbreflow.workers import local_process_count, worker_count


def loader_workers(device: torch.device) -> int:
    """Loader processes: none beside a model on the CPU, where they would take its cores; else `worker_count`.

    Where torchrun has started several processes on this machine, they share that number.
    """
    return 0 if device.type == "cpu" else max(1, worker_count() // local_process_count())
