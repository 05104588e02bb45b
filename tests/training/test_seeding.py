"""Same (seed, purpose, step): same numbers in all three generators."""

import random

import numpy as np
import torch

from timbreflow.training.seeding import seed_everything


def draw(seed: int, *parts: int | str) -> tuple[float, float, float]:
    seed_everything(seed, *parts)
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_depends_on_every_part_and_on_nothing_else() -> None:
    first = draw(1, "step", 5)
    assert draw(1, "step", 5) == first
    for other in (draw(2, "step", 5), draw(1, "step", 6), draw(1, "validation", 5)):
        assert all(a != b for a, b in zip(first, other, strict=True))
