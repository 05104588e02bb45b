"""How long a training will take, said once it is known and again when that changes."""

from collections import deque

MEASURED_STEPS = 5
"""Steps that the first estimate is made of. The very first step is none of them: it also makes plans and codebooks."""
WINDOW = 50
"""Steps that later estimates are made of, so that they follow a machine that becomes busy."""


class Estimate:
    """Estimates the whole time of a training from the pace of its last steps, validations among them.

    Args:
        first: steps that were done before.
        steps: of the whole training.
        now: clock at its start, in s.
    """

    def __init__(self, first: int, steps: int, *, now: float) -> None:
        self._first, self._steps, self._began = first, steps, now
        self._ends: deque[tuple[int, float]] = deque(maxlen=WINDOW + 1)
        self._told: float | None = None

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
        if self._told is not None and abs(whole - self._told) < 0.5 * self._told:
            return None
        again, self._told = self._told is not None, whole
        return f"this training {'now ' if again else ''}takes about {spoken(whole)} in all, {spoken(left)} from here"


def spoken(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
