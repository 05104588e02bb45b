"""One house for all tests of faults; each finds it as it was at first."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.house import House


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """For commands that need nothing of the stages."""
    house = House(tmp_path_factory.mktemp("faults") / "checkout")
    try:
        house.open()
        yield house
    finally:
        house.close()


@pytest.fixture(scope="session")
def furnished(opened: House) -> House:
    opened.furnish()
    return opened


@pytest.fixture
def house(furnished: House) -> Iterator[House]:
    yield furnished
    furnished.tidy()


@pytest.fixture(scope="session")
def elsewhere(opened: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A second house with all that can be odd about an environment at once; see `ODD`."""
    root: Path = tmp_path_factory.mktemp("odd") / "a checkout with späces"
    house = House(root, odd_environment(root.parent))
    house.checkout.environment.pop("HOME")
    try:
        house.open()
        yield house
    finally:
        house.close()


def odd_environment(folder: Path) -> dict[str, str]:
    """LC_ALL=C, proxies that do not answer, and a profile of Prefect that names a server of elsewhere."""
    home = folder / "of-another-project"
    home.mkdir()
    (home / "profiles.toml").write_text('active = "lab"\n[profiles.lab]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n')
    dead = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), dead)
    profile = {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_PROFILE": "lab",
    }
    return {"LC_ALL": "C", "LANG": "C", "all_proxy": "socks://127.0.0.1:9", **proxies, **profile}
