"""The family classifier learns what can be told apart, and comes back from disk the same."""

from pathlib import Path

import numpy as np
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.family import (
    FamilyClassifier,
    FamilyConfig,
    fit_family_classifier,
    load_family_classifier,
    save_family_classifier,
)

CONFIG = FamilyConfig(hidden=32, steps=150, batch_size=64)


def clouds(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Statistics [n, 24] around one centre a family, on axes of very different scales; family 3 is rare."""
    draw = np.random.default_rng(seed)
    families = draw.choice([0, 3, 12], size=n, p=[0.6, 0.05, 0.35])
    centres = np.random.default_rng(0).normal(size=(16, 24))
    scale = np.logspace(-2, 2, 24)
    return (centres[families] + 0.3 * draw.normal(size=(n, 24))) * scale + 5.0, families


def test_it_learns_rare_families_and_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    network = fit_family_classifier(*clouds(400, 1), CONFIG)
    statistics, families = clouds(300, 2)
    classifier = FamilyClassifier(network, {})
    assert classifier.accuracy(statistics, families) > 0.97
    assert classifier.accuracy(statistics[families == 3], families[families == 3]) > 0.9
    save_family_classifier(tmp_path / "family", network, config=CONFIG, facts={"validation_accuracy": 0.9})
    again = load_family_classifier(tmp_path / "family")
    assert (again(statistics) == classifier(statistics)).all()
    assert again.facts["validation_accuracy"] == 0.9
    assert sorted(path.name for path in (tmp_path / "family").iterdir()) == ["config.json", "weights.safetensors"]


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = (fit_family_classifier(*clouds(100, 1), CONFIG) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_broken_folder_and_useless_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="missing"):
        load_family_classifier(tmp_path)
    network = fit_family_classifier(*clouds(60, 1), CONFIG)
    save_family_classifier(tmp_path / "cut", network, config=CONFIG, facts={})
    (tmp_path / "cut" / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(TimbreflowError, match="train it again"):
        load_family_classifier(tmp_path / "cut")
    statistics, families = clouds(60, 1)
    with pytest.raises(TimbreflowError, match="two families"):
        fit_family_classifier(statistics, np.zeros_like(families), CONFIG)
    statistics[0, 0] = np.nan
    with pytest.raises(TimbreflowError, match="finite"):
        fit_family_classifier(statistics, families, CONFIG)
