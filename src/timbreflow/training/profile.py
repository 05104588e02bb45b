"""Where the time of a training goes; above all, how long the model waited for data."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

VARIABLE = "TIMBREFLOW_PROFILE"
Part = Literal["data", "forward_backward", "optimizer", "validation", "checkpoint"]
_NAMES: dict[Part, str] = {
    "data": "waiting for data",
    "forward_backward": "forward and backward",
    "optimizer": "optimizer and averages",
    "validation": "validation",
    "checkpoint": "checkpoints",
}


class Stopwatch:
    """Seconds of each part of a training.

    The wait for data is always measured; it costs a microsecond a batch. With TIMBREFLOW_PROFILE=1, or `--profile` of a
    training, the other parts are right on CUDA too: the device is waited for after each, which slows a step a little.

    Args:
        device: that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.wanted = os.environ.get(VARIABLE, "") not in ("", "0")
        self._synchronize = self.wanted and device.type == "cuda"
        self.device = device
        self._began = time.perf_counter()
        self.seconds: dict[Part, float] = dict.fromkeys(get_args(Part), 0.0)

    @contextmanager
    def __call__(self, part: Part) -> Iterator[None]:
        """Count what happens inside as `part`."""
        began = time.perf_counter()
        yield
        if self._synchronize and part != "data":
            torch.cuda.synchronize(self.device)
        self.seconds[part] += time.perf_counter() - began

    @property
    def data_wait(self) -> float:
        """Share of the time so far in which the model waited for data."""
        return self.seconds["data"] / max(time.perf_counter() - self._began, 1e-9)

    def report(self, steps: int) -> str:
        """One sentence: the parts, in seconds, ms a step and percent."""
        total = max(time.perf_counter() - self._began, 1e-9)
        rest = total - sum(self.seconds.values())
        parts = [*((_NAMES[part], seconds) for part, seconds in self.seconds.items()), ("the rest", rest)]
        listed = "; ".join(
            f"{name} {seconds:.2f} s ({1000 * seconds / max(steps, 1):.2f} ms a step, {seconds / total:.1%})"
            for name, seconds in parts
        )
        return f"profile of {steps} steps in {total:.1f} s: {listed}"
