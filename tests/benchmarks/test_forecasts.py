"""Scores of samples: a model that knows the target, and one that adds what it does not know."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from benchmarks.forecasts import measure
from tests.inference import tiny
from timbreflow.audio.features import Normalizer
from timbreflow.evaluation.clips import EvaluationClips, TripleBatch
from timbreflow.models.bundle import ModelBundle


class Clips:
    """Two clips whose target is the content."""

    def batches(self, size: int) -> Iterator[TripleBatch]:
        melody = torch.stack([torch.from_numpy(tiny.melody(2.0, 16000, seed=seed)) for seed in (1, 2)]).numpy()
        yield TripleBatch(
            ["a", "b"], melody, melody[::-1].copy(), melody, [], ["", ""], ["x/0/1", "x/0/2"], [None, None]
        )


def test_scores_are_in_decibels_of_the_target() -> None:
    normalizer = Normalizer(torch.full((40,), -1.0), torch.full((40,), 1.5))
    bundle = ModelBundle("vqvae", tiny.build("vqvae"), tiny.FEATURES, normalizer, {})
    clips = cast(EvaluationClips, Clips())

    def louder(content: torch.Tensor, style: torch.Tensor, noise: Any) -> torch.Tensor:
        return content + 0.2

    exact, instruments = measure(bundle, lambda content, style, noise: content, clips, 3, 1.0)
    assert instruments == ["x/0/1", "x/0/2"]
    for name in ("crps", "energy_score", "lsd", "best_lsd"):
        assert exact[name] == pytest.approx([0.0, 0.0], abs=1e-4)
    assert exact["variance_low"] == pytest.approx([1.0, 1.0], rel=1e-4)
    off, _ = measure(bundle, louder, clips, 2, 1.0)
    assert off["crps"] == pytest.approx([0.2 * 1.5 * 8.686] * 2, rel=0.01)
    assert off["best_lsd"] == pytest.approx(off["lsd"])
