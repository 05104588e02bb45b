"""A synthesizer with the font that pretty_midi ships, kept for the whole session."""

from collections.abc import Iterator

import numpy as np
import pytest

from timbreflow.notes.tables import Notes
from timbreflow.rendering.soundfonts import BUNDLED, bundled_soundfont
from timbreflow.rendering.synthesizer import Synthesizer

SAMPLE_RATE = 16000


@pytest.fixture(scope="session")
def synthesizer() -> Iterator[Synthesizer]:
    made = Synthesizer({BUNDLED: bundled_soundfont()}, sample_rate=SAMPLE_RATE)
    yield made
    made.close()


def random_notes(seed: int, count: int = 24, seconds: float = 2.0) -> Notes:
    rng = np.random.default_rng(seed)
    return Notes.of(
        rng.uniform(0, seconds - 0.1, count),
        rng.uniform(0.05, 1, count),
        rng.integers(40, 88, count),
        rng.integers(30, 127, count),
    )


@pytest.fixture
def make_notes() -> object:
    return random_notes
