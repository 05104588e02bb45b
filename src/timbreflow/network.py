"""Requests to servers: loopback never goes through a proxy, and every wait has a limit."""

import os
import re
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
ANSWER_SECONDS = 10
"""A server named by the user must answer within this time."""

R = TypeVar("R")


def bypass_proxy_for_loopback() -> None:
    """Exclude loopback from the user's proxy, in this process and those that it starts.

    `socks://`, which desktops set and the HTTP libraries of Prefect and MLflow refuse, becomes `socks5://`.
    """
    proxies = {name: value for name in PROXIES if (value := os.environ.get(name))}
    if not proxies:
        # With no_proxy alone, Python would ignore the proxies of macOS's system settings.
        return
    for name, value in proxies.items():
        if value.startswith("socks://"):
            os.environ[name] = "socks5" + value.removeprefix("socks")
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    # Python understands "*" only where it stands alone.
    value = "*" if "*" in hosts else ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = value


def without_password(text: str) -> str:
    """An address, or a sentence with some, as it may be shown: without what names a user or opens a door."""
    text = re.sub(r"(?<=//)[^\s]*@", "***@", text)
    # Where the scheme is missing, user and password stand before the host alone.
    text = re.sub(r"(?<![^\s=])[^\s/@=:]+:(?!//)[^\s@]*@(?=\S)", "***@", text)
    return re.sub(r"(?i)((?:password|passwd|pwd|token|secret|key)=)[^&\s;]+", r"\1***", text)


def within(seconds: float, function: Callable[[], R]) -> R:
    """Run a function in a thread and return its result; a thread that takes longer is abandoned.

    Time limits of sockets count from byte to byte, so a server that sends a byte now and then never reaches them.

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
