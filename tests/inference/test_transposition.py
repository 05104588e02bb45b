"""Features of transposed sound: the pitch moves, the time does not."""

import numpy as np
import pytest
import torch

from tests.inference.tiny import FEATURES, melody
from timbreflow.audio.features import FeatureExtractor
from timbreflow.inference.transposition import transposed_features

RATE = 16000
EXTRACT = FeatureExtractor(FEATURES)


@pytest.mark.parametrize("semitones", [-12, -5, 7, 12])
def test_a_tone_becomes_the_tone_at_that_interval(semitones: int) -> None:
    time = np.arange(RATE) / RATE
    tone, wanted = (
        0.1 * np.sin(2 * np.pi * pitch * time, dtype=np.float32) for pitch in (600, 600 * 2 ** (semitones / 12))
    )
    found = transposed_features(torch.from_numpy(tone[None].astype(np.float32)), semitones, EXTRACT)[0]
    expected = EXTRACT(torch.from_numpy(wanted[None].astype(np.float32)))[0]
    assert found.shape == expected.shape
    inside = slice(3, -3)
    torch.testing.assert_close(found[:, inside], expected[:, inside], atol=0.35, rtol=0)


def test_no_transposition_is_the_plain_analysis() -> None:
    audio = melody(1.3, RATE)[None]
    plain = EXTRACT(torch.from_numpy(audio))
    torch.testing.assert_close(transposed_features(torch.from_numpy(audio), 0, EXTRACT), plain, atol=2e-2, rtol=0)


@pytest.mark.parametrize("semitones", [-9.5, 9.5])
def test_onsets_stay_where_they_are(semitones: float) -> None:
    audio = np.zeros((2, 4 * RATE), np.float32)
    audio[0, 20000:] = 0.1 * np.sin(np.arange(44000) * 0.3)
    audio[1, 50000:] = 0.1 * np.sin(np.arange(14000) * 0.3)
    found = transposed_features(torch.from_numpy(audio), semitones, EXTRACT).exp().sum(1)
    for clip, sample in zip(found, (20000, 50000), strict=True):
        first = int((clip > 0.5 * clip.max()).nonzero()[0])
        assert abs(first - sample / FEATURES.hop_length) <= 1
