"""How many processes load data beside a model."""

import torch

from timbreflow.workers import worker_count


def loader_workers(device: torch.device) -> int:
    """Loader processes: none beside a model on the CPU, where they would take its cores; else `worker_count`."""
    return 0 if device.type == "cpu" else worker_count()
