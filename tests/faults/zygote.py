"""Starts commands of a checkout as forked children of one process that has imported everything, which saves 10 s each.

    python zygote.py SOCKET MODULE ...    in the checkout; imports the modules, then waits for requests

A request is one line of JSON (see `House.start`); the answers are the child's process id and, later, its exit status.
A child counts what it opens for writing, renames and makes below the `watch` folders. At the number that its fault
names, or where a file gets the name that it names, the fault happens: a signal, a file that appears, a clock that is
set, memory that ends, weights that are no numbers.
"""

import atexit
import ctypes
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main() -> None:
    sys.path.pop(0)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    children: dict[int, socket.socket] = {}
    while True:
        if select.select([listener], [], [], 0.02)[0]:
            connection = listener.accept()[0]
            line = connection.makefile().readline()
            if not line:
                return
            pid = os.fork()
            if not pid:
                listener.close()
                connection.close()
                child(json.loads(line))
            children[pid] = connection
            connection.sendall(f"{pid}\n".encode())
        for pid, connection in list(children.items()):
            if (ended := os.waitpid(pid, os.WNOHANG))[0]:
                with suppress(OSError):  # nobody waits for it any more
                    connection.sendall(f"{os.waitstatus_to_exitcode(ended[1])}\n".encode())
                connection.close()
                del children[pid]


def child(request: dict[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(request["folder"])
    for name, value in request["environment"].items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    watch(request)
    module, *arguments = request["command"]
    sys.argv = [module, *arguments]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    # As at the end of any process, but for taking down the interpreter, which libraries do not survive in a fork.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watch(request: dict[str, Any]) -> None:
    places, fault = tuple(f"{place}/" for place in request["watch"]), request["fault"] or {}
    when, seen = fault.get("when"), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen, when
        match event, arguments:
            case "open", (str(path), _, int(flags)) if flags & WRITING:
                name = ""
            case "os.rename", (_, target, *_):
                name = path = os.fspath(target)
            case "os.mkdir", (target, *_):
                name, path = "", os.fspath(target)
            case _:
                return
        if not path.startswith(places):
            return
        seen += 1
        if when == seen or (isinstance(when, str) and name.endswith(when)):
            when = None
            happen(fault)
        if request["count"]:
            counted(request["count"], seen)

    if when == 0:
        happen(fault)
    sys.addaudithook(hook)


def counted(place: str, seen: int) -> None:
    file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(file, str(seen).encode())
    os.close(file)


def happen(fault: dict[str, Any]) -> None:
    if "touch" in fault:
        os.close(os.open(fault["touch"], os.O_CREAT))
    if "clock" in fault:
        ctypes.c_long.in_dll(ctypes.CDLL(None), "clock_offset").value = fault["clock"]
    if "memory" in fault:
        with open("/proc/self/status") as status:
            used = next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + fault["memory"], resource.RLIM_INFINITY))
    if "allocation" in fault:
        raise MemoryError("cannot allocate memory")
    if "nan" in fault:
        poison()
    if "signal" in fault:
        os.kill(os.getpid(), fault["signal"])
        if fault["signal"] != signal.SIGKILL:
            # Delivered between two steps of the main thread, before the file is written.
            time.sleep(0.05)


def poison() -> None:
    """Every step of an optimizer leaves weights that are no numbers."""
    import torch

    step = torch.optim.AdamW.step

    def poisoned(self: torch.optim.AdamW, *arguments: Any, **named: Any) -> Any:
        result = step(self, *arguments, **named)
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight.fill_(float("nan"))
        return result

    torch.optim.AdamW.step = poisoned  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
