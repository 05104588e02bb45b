"""Proxies never stand before loopback, and no answer is awaited for ever."""

import os
import threading
import time
from urllib.request import getproxies, proxy_bypass

import httpx
import pytest

from timbreflow.network import PROXIES, bypass_proxy_for_loopback, within


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "no_proxy", "NO_PROXY"):
        # Set first, so that what the code sets is undone too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("given", ["", "lab.example, 10.0.0.1"])
def test_loopback_is_excepted_and_nothing_else(name: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:3128")
    monkeypatch.setenv("NO_PROXY", given)
    for _ in range(2):
        bypass_proxy_for_loopback()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
    for host in ("localhost", "127.0.0.1", "127.0.0.1:5000", "[::1]:5000"):
        assert proxy_bypass(host.replace("[", "").replace("]:5000", "") if host.startswith("[") else host)
    assert bool(proxy_bypass("lab.example")) == bool(given)
    assert not proxy_bypass("elsewhere.example")
    assert "127.0.0.1:3128" in " ".join(getproxies().values())


def test_every_host_may_be_excepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:3128")
    monkeypatch.setenv("no_proxy", "*")
    bypass_proxy_for_loopback()
    assert proxy_bypass("elsewhere.example")


@pytest.mark.parametrize("scheme", ["socks", "socks5", "socks5h"])
def test_a_socks_proxy_does_not_stop_the_client_of_prefect(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", f"{scheme}://127.0.0.1:1080")
    bypass_proxy_for_loopback()
    httpx.Client().close()


def test_without_a_proxy_the_environment_stays_as_it_is() -> None:
    before = dict(os.environ)
    bypass_proxy_for_loopback()
    assert dict(os.environ) == before


def test_what_takes_too_long_is_left_behind() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.2, threading.Event().wait)
    assert time.monotonic() - began < 5
    assert within(5, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(5, lambda: {}["x"])
