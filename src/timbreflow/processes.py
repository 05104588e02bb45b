"""Which process does something, in words that a later process can check."""

import os
import socket


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
