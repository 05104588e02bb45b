"""The load test of the server, in small."""

from pathlib import Path

import pytest

from benchmarks.serving import measure
from tests.inference.conftest import bundles  # noqa: F401


@pytest.mark.slow
def test_a_small_load_has_no_errors_and_the_request_too_many_is_refused(bundles: dict[str, Path]) -> None:  # noqa: F811
    result = measure(bundles["vqvae"], clients=3, transfers=9, first=3, seconds=1.0, held_seconds=16.0)
    assert (result["errors"], result["transfers"]) == (0, 9)
    assert 0 < result["p50"] <= result["p99"] <= result["longest"]
    assert result["megabytes_first"] > 50
    full = result["full"]
    assert (full["served"], full["refused"]) == (3, {"status": 503, "retry_after": True})
    assert "All 3 places are taken" in full["sentence"]
