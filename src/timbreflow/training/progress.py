"""What a training says of itself: curves, a progress bar or lines, how long it will take, where its time goes."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from tqdm import tqdm

from timbreflow.progress_lines import SECONDS_BETWEEN_LINES, format_time
from timbreflow.training.config import FitConfig

PROFILE_VARIABLE = "TIMBREFLOW_PROFILE"
MEASURED_STEPS = 5
"""Steps of the first estimate. The very first step, which also plans kernels and fills codebooks, is left out."""
WINDOW = 50
"""Steps of later estimates, so that they follow a machine that becomes busy."""

Part = Literal["data", "forward_backward", "optimizer", "validation", "checkpoint"]
_NAMES: dict[Part, str] = {
    "data": "waiting for data",
    "forward_backward": "forward and backward",
    "optimizer": "optimizer and averages",
    "validation": "validation",
    "checkpoint": "checkpoints",
}

logger = logging.getLogger(__name__)


class Stopwatch:
    """Seconds of each part of a training.

    The wait for data is always measured; it costs a microsecond a batch. With TIMBREFLOW_PROFILE=1, or `--profile` of a
    training, the other parts are right on CUDA too: the device is waited for after each, which slows a step a little.
    """

    def __init__(self, device: torch.device) -> None:
        self.wanted = os.environ.get(PROFILE_VARIABLE, "") not in ("", "0")
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


class Estimate:
    """Estimates the whole time of a training from the pace of its last steps, validations among them.

    It starts at the clock `now`, in s, after `first` of all `steps`.
    """

    def __init__(self, first: int, steps: int, *, now: float) -> None:
        self._first, self._steps, self._began = first, steps, now
        self._ends: deque[tuple[int, float]] = deque(maxlen=WINDOW + 1)
        self._announced: float | None = None

    def left(self, step: int, *, now: float) -> float | None:
        """Seconds that are left after step number `step` (from 1); None before enough steps were measured."""
        if step > (self._ends[-1][0] if self._ends else self._first):
            self._ends.append((step, now))
        if len(self._ends) <= MEASURED_STEPS:
            return None
        (before, then), (last, end) = self._ends[0], self._ends[-1]
        return (end - then) / (last - before) * (self._steps - step)

    def news(self, step: int, *, now: float) -> str | None:
        """What to say after step number `step`: at first, and when the whole time has changed by half."""
        left = self.left(step, now=now)
        if left is None or step >= self._steps:
            return None
        whole = now - self._began + left
        if self._announced is not None and abs(whole - self._announced) < 0.5 * self._announced:
            return None
        again, self._announced = self._announced is not None, whole
        return (
            f"this training {'now ' if again else ''}takes about {format_time(whole)} in all, "
            f"{format_time(left)} from here"
        )


class Progress:
    """Reports a fit: curves to the metric logger, a progress bar or lines and estimates to the shell.

    The fit begins after step `first`. Without a logger nothing is reported, as by all processes but the first.
    """

    def __init__(
        self,
        config: FitConfig,
        first: int,
        log: Callable[[int, Mapping[str, float]], None] | None,
        watch: Stopwatch,
    ) -> None:
        self._config, self._first, self._log, self._watch = config, first, log, watch
        self._started = self._last_line = time.monotonic()
        if log is not None:
            resumed = f", resumed at step {first} of {config.steps}" if first else ""
            logger.info("training in %s on %s%s", config.precision, watch.device, resumed)
        self._estimate = Estimate(first, config.steps, now=self._started)
        self._bar = tqdm(total=config.steps, initial=first, unit="step", disable=None if log else True)

    def examples_per_second(self, step: int) -> float:
        """Since the fit began, at step number `step`."""
        done = (step - self._first) * self._config.batch_size * self._config.grad_accumulation
        return done / max(time.monotonic() - self._started, 1e-9)

    def update(self, step: int, terms: Mapping[str, float], *, finite: bool) -> None:
        """Report step number `step` (from 1); `finite`: it changed the weights."""
        self._bar.update()
        if self._log is None:
            return
        if step % self._config.log_every == 0 and finite:
            self._bar.set_postfix(loss=f"{terms['loss']:.4f}")
            speed = {"examples_per_second": self.examples_per_second(step), "data_wait": self._watch.data_wait}
            self._log(step, {**{f"train/{name}": value for name, value in terms.items()}, **speed})
        now = time.monotonic()
        if news := self._estimate.news(step, now=now):
            logger.info(news)
        left = self._estimate.left(step, now=now)
        if self._bar.disable and left is not None and now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            steps = self._config.steps
            logger.info("step %d of %d, loss %.4f, %s left", step, steps, terms["loss"], format_time(left))

    def close(self, step: int) -> None:
        """End after step number `step`, with the profile where it is asked for."""
        self._bar.close()
        if self._log is not None and self._watch.wanted:
            logger.info(self._watch.report(step - self._first))
