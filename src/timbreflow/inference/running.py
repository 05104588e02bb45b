"""What a running transfer and its caller tell each other: how far it is, and to stop."""

from collections.abc import Callable

from timbreflow.errors import Cancelled

Progress = Callable[[float], None]
"""Called with the fraction that is done, 0..1."""
Cancel = Callable[[], bool]
"""Asked before each chunk; where it says True, `Cancelled` is raised and nothing is left half-written."""


def share(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Progress of one of several equal parts."""
    return None if progress is None else lambda fraction: progress((number + fraction) / count)


def ask(cancel: Cancel | None) -> None:
    """Raise `Cancelled` where the caller wants to stop."""
    if cancel is not None and cancel():
        raise Cancelled("The transfer was cancelled; nothing was written.")
