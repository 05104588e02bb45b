"""What a server does about its own process."""

import os
import platform
import socket
import subprocess
import sys

import psutil
import pytest

from timbreflow.processes import is_dead, process_tag

THREADS_THAT_ALLOCATE = """
import ctypes, sys, threading
from timbreflow.processes import few_arenas
if sys.argv[1] == "few":
    few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(8)
def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype = ctypes.c_void_p
stream = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(stream))
libc.fclose(ctypes.c_void_p(stream))
"""


def heaps(*, few: bool) -> int:
    asked = subprocess.run(
        [sys.executable, "-c", THREADS_THAT_ALLOCATE, "few" if few else "many"],
        capture_output=True,
        text=True,
        check=True,
    )
    return asked.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps are glibc's")
def test_threads_share_two_heaps() -> None:
    assert heaps(few=True) <= 2 < heaps(few=False)


def of_an_ended_process(place: str) -> str:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return f"process:{place}:{ended.pid}:1"


def test_only_an_ended_process_of_this_place_is_dead() -> None:
    place = process_tag().split(":")[1]
    assert not is_dead(process_tag())
    assert is_dead(of_an_ended_process(place))
    assert not is_dead(of_an_ended_process("another-host"))


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="namespaces are Linux's")
def test_a_process_of_another_container_with_this_hosts_name_is_not_dead() -> None:
    host, _, namespace = process_tag().split(":")[1].partition("+")
    assert host == socket.gethostname() and f"pid:[{namespace}]" == os.readlink("/proc/self/ns/pid")
    assert not is_dead(of_an_ended_process(f"{host}+1{namespace}"))


def test_tags_of_earlier_versions_which_have_no_namespace_are_read() -> None:
    host = socket.gethostname()
    assert is_dead(of_an_ended_process(host))
    assert not is_dead(f"process:{host}:{os.getpid()}:{psutil.Process().create_time():.0f}")


def test_where_there_are_no_namespaces_the_host_is_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "readlink", no_proc)
    assert process_tag().split(":")[1] == socket.gethostname()
    assert is_dead(of_an_ended_process(socket.gethostname()))
