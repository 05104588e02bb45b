"""The runbook's servers of models, their monitoring, and rollback: typed in a copy of this checkout.

The registry holds tiny models that nobody trained.
"""

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import soundfile
from checkout import ROOT, Checkout

from benchmarks.services import answers, free_port, running, wait_for
from tests.inference.tiny import save_bundles
from tests.runbook import blocks, command, type_in
from tests.tracking.test_registry import evaluation, promote, register, variant, versions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A VQ-VAE and a Glow are champions; the Glow is the second one."""
    checkout = Checkout(tmp_path_factory.mktemp("serving") / "checkout")
    shutil.copytree(ROOT / "docs" / "sounds", checkout.root / "docs" / "sounds")
    (checkout.root / "benchmarks").symlink_to(ROOT / "benchmarks")
    bundles = save_bundles(checkout.root / "data" / "bundles")
    better = variant(bundles["glow"], checkout.root / "data" / "better", "better")
    for name, folder, lsd in (("vqvae", bundles["vqvae"], 15), ("glow", bundles["glow"], 15), ("glow", better, 14)):
        register(name, folder, evaluation(lsd, 0.6), root=checkout.root)
        assert promote(name, root=checkout.root).promoted
    # What hears notes for monitoring.
    checkout.environment["TIMBREFLOW_MODELS"] = str(ROOT / "released")
    return checkout


@contextmanager
def served(checkout: Checkout, block: str, ready: str) -> Iterator[None]:
    """A server that a block of the page starts, as soon as it answers."""
    log = checkout.root / "server.log"
    with running(command(block), log, checkout.environment, cwd=checkout.root) as process:
        wait_for(lambda: answers(ready), process, "the server", log)
        yield


def test_transfers_over_http_are_recorded_and_monitored(checkout: Checkout) -> None:
    port = free_port()
    here = {"127.0.0.1:8080": f"127.0.0.1:{port}", "timbreflow serve": f"timbreflow serve --port {port}"}
    http, _ = blocks("An HTTP server", here)
    start, _, requests = http.partition("\n")
    with served(checkout, start, f"http://127.0.0.1:{port}/readyz"):
        type_in(requests, checkout.root, checkout.environment)
    tune = soundfile.info(ROOT / "docs" / "sounds" / "violin-tune.ogg").duration
    assert soundfile.info(checkout.root / "out.wav").duration == pytest.approx(tune, abs=0.1)
    with zipfile.ZipFile(checkout.root / "out.zip") as answer:
        assert answer.namelist() == ["1.wav", "2.wav"]

    # test_runbook.py, whose pipeline makes data/audio, types this line, too; the script builds test sets for minutes.
    asked = {"monitor-reference data/audio": "monitor-reference --help", "drift.py": "drift.py --help"}
    record, look = blocks("Monitoring", here | asked)
    first, _, _ = requests.partition("\ncurl")
    with served(checkout, record, f"http://127.0.0.1:{port}/readyz"):
        type_in(first, checkout.root, checkout.environment)
    printed = type_in(look, checkout.root, checkout.environment)
    assert "1 transfers in 1 days are too few to say anything" in printed
    assert "usage: drift.py" in printed
    assert (checkout.root / "monitor.html").is_file()
    assert (checkout.root / "results" / "monitor" / "monitor.html").is_file()


def test_mlflow_s_server_of_a_model(checkout: Checkout) -> None:
    port = free_port()
    start, ask = blocks("MLflow's server", {"5001": str(port)})
    (checkout.root / "out.wav").unlink(missing_ok=True)
    with served(checkout, start, f"http://127.0.0.1:{port}/ping"):
        type_in(ask, checkout.root, checkout.environment)
    assert soundfile.info(checkout.root / "out.wav").duration > 1


def test_the_champion_before_comes_back(checkout: Checkout) -> None:
    assert "champion" in versions(checkout.root)["2"]
    _, _, back = blocks("Upgrade and roll back")
    assert "version 1 is the champion again" in type_in(back, checkout.root, checkout.environment)
    assert "champion" in versions(checkout.root)["1"]
