"""What figures may be compared."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.digest import digest_of_metrics

CONFIG = EvaluationConfig(
    sets=("test",),
    systems=("vqvae", "glow"),
    max_triples=0,
    temperature=0.667,
    variance_scale=1.05,
    seed=0,
    griffin_lim_iterations=8,
    griffin_lim_momentum=0.99,
    batch_size=2,
    bootstrap_samples=100,
    examples=2,
    worst_examples=1,
)
MOVED: dict[str, Any] = {
    "temperature": 0.5,
    "variance_scale": 1.0,
    "seed": 1,
    "griffin_lim_iterations": 9,
    "griffin_lim_momentum": 0.5,
    "batch_size": 3,
}
STAYS: dict[str, Any] = {
    "systems": ("glow",),
    "bootstrap_samples": 7,
    "examples": 0,
    "worst_examples": 0,
    "sets": ("test_seen",),
    "max_triples": 3,
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("name", [field.name for field in fields(EvaluationConfig)])
def test_the_digest_changes_with_every_setting_that_moves_figures_and_no_other(name: str, weights: Path) -> None:
    changed = replace(CONFIG, **{name: (MOVED | STAYS)[name]})
    same = digest_of_metrics(weights, changed) == digest_of_metrics(weights, CONFIG)
    assert same == (name in STAYS)


def test_temperature_and_variance_scale_are_no_part_of_the_digest_of_rows_that_do_not_draw(weights: Path) -> None:
    for name, value in MOVED.items():
        changed = replace(CONFIG, **{name: value})
        same = digest_of_metrics(weights, changed, drawn=False) == digest_of_metrics(weights, CONFIG, drawn=False)
        assert same == (name in ("temperature", "variance_scale"))


def test_the_path_of_models_leaves_digests_of_stored_baselines_as_they_were(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timbreflow.evaluation.digest.network_file", lambda: weights)
    stored = digest_of_metrics(weights, CONFIG, drawn=False)
    drawn = digest_of_metrics(weights, CONFIG)
    # Made before there was a version of the path.
    assert stored == "0704fb7f4f351c0bb201d0860da96fd7044167f95b4c4b83f72f4fbcdd72d16b"
    monkeypatch.setattr("timbreflow.evaluation.digest.MODEL_PATH_VERSION", 99)
    assert digest_of_metrics(weights, CONFIG, drawn=False) == stored
    assert digest_of_metrics(weights, CONFIG) != drawn


def test_the_digest_changes_with_the_weights(weights: Path) -> None:
    before = digest_of_metrics(weights, CONFIG)
    weights.write_bytes(b"others")
    assert digest_of_metrics(weights, CONFIG) != before
