"""Which process does something, in words that a later process can check."""

import ctypes
import os
import socket
from contextlib import suppress

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def _place() -> str:
    """Where this process's id means this process: the host and, on Linux, the number of the namespace of ids.

    Containers may have their host's name (`network_mode: host`), but do not see its processes, nor each other's.
    """
    host = socket.gethostname()
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # pid:[4026531836]
    except OSError:
        return host
    return f"{host}+{namespace[5:-1]}"


def process_tag() -> str:
    """`process:<host>[+<namespace>]:<id>:<time it began>` of this process."""
    import psutil

    return f"process:{_place()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def is_dead(tag: str) -> bool:
    """Whether a `process_tag` names a process of this place that has ended; False for other texts and other places."""
    import psutil

    kind, _, rest = tag.partition(":")
    if kind != "process":
        return False
    place, pid, created = rest.rsplit(":", 2)
    if place not in (_place(), socket.gethostname()):  # tags of earlier versions have no namespace
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
