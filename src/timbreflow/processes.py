"""Which process does something, in words that a later process can check."""

import ctypes
import os
import socket
from contextlib import suppress

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def process_tag() -> str:
    """`process:<host>:<id>:<time it began>` of this process."""
    import psutil

    return f"process:{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def is_dead(tag: str) -> bool:
    """Whether a `process_tag` names a process of this host that has ended; False for other texts and other hosts."""
    import psutil

    kind, _, rest = tag.partition(":")
    if kind != "process":
        return False
    host, pid, created = rest.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(created)) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def few_arenas() -> None:
    """Let the threads of a server share two heaps; glibc gives each thread one, which keeps what was freed in it."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
