"""What one server takes at most."""

import math
from dataclasses import dataclass

from timbreflow.errors import TimbreflowError

MOST_PAIRS = 32
"""Of one batch."""
MOST_STEPS = 200
"""Of `fit_style`: a step takes as long as a transfer of the style."""
UPLOAD_SECONDS = 60.0
FETCH_SECONDS = 60.0
"""In which a request must have come, and its answer have been fetched: it has a place meanwhile."""
DECODED = 8
"""Samples, as float32, take at most so many times `max_bytes`: a FLAC of silence has a thousandth of its samples."""


@dataclass(frozen=True)
class Limits:
    """Limits of a server; memory and waiting time follow from them.

    Attributes:
        concurrency: transfers at a time, each with its own copy of the model.
        queue: requests that may wait; the next one is answered by 503.
        max_bytes: of one request.
        max_seconds: of the contents of one request together, and of its styles.

    Raises:
        TimbreflowError: nothing could be served.
    """

    concurrency: int = 1
    queue: int = 8
    max_bytes: int = 32_000_000
    max_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("queue", 0), ("max_bytes", 1), ("max_seconds", 1)):
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise TimbreflowError(f"--{name.replace('_', '-')} is {value}; give {least} or more.")

    @property
    def places(self) -> int:
        """Requests that are in the server at a time."""
        return self.concurrency + self.queue
