"""Lines in a log about work that takes minutes."""

import logging
import time

SECONDS_BETWEEN_LINES = 30.0


def format_time(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class ProgressLines:
    """Logs, at most every SECONDS_BETWEEN_LINES, how many of `total` are done and the time left at the pace so far."""

    def __init__(self, logger: logging.Logger, noun: str, total: int) -> None:
        self._logger, self._noun, self._total = logger, noun, total
        self._began = self._said = time.monotonic()

    def show(self, done: int) -> None:
        """Say that so many are done, unless the last line is recent."""
        now = time.monotonic()
        if done and now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            left = (now - self._began) / done * (self._total - done)
            self._logger.info("%d of %d %s, %s left", done, self._total, self._noun, format_time(left))
