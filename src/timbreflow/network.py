"""Servers, here and elsewhere: loopback is never asked through a proxy, and no answer is awaited for ever."""

import os
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
ANSWER_SECONDS = 10
"""A server that somebody names is given up after this long."""

R = TypeVar("R")


def bypass_proxy_for_loopback() -> None:
    """Except loopback from the user's proxy, in this process and those that it starts.

    `socks://`, which desktops write and the HTTP libraries below Prefect and MLflow refuse, becomes `socks5://`.
    """
    proxies = {name: value for name in PROXIES if (value := os.environ.get(name))}
    if not proxies:
        # A no_proxy on its own would hide the proxies of macOS's system settings from Python.
        return
    for name, value in proxies.items():
        if value.startswith("socks://"):
            os.environ[name] = "socks5" + value.removeprefix("socks")
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    # Python understands "*" only where it stands alone.
    value = "*" if "*" in hosts else ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = value


def within(seconds: float, function: Callable[[], R]) -> R:
    """What a function returns or raises, in a thread that is left behind when it takes longer.

    Time limits of sockets count from byte to byte: a server that sends a byte now and then holds them off for ever.

    Raises:
        TimeoutError: it takes longer.
    """
    future: Future[R] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=copy_context().run, args=(work,), daemon=True).start()
    return future.result(timeout=seconds)
