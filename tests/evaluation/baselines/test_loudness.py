import pytest
import torch

from timbreflow.evaluation.baselines.loudness import PEAK, as_loud_as


def test_loudness_is_the_reference_s_unless_a_peak_would_clip() -> None:
    noise = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    reference = 0.05 * noise.flip(0)
    assert float(as_loud_as(3 * noise, reference).square().mean()) == pytest.approx(float(reference.square().mean()))
    click = torch.zeros(8000)
    click[5] = 0.1
    assert float(as_loud_as(click, reference).abs().max()) == pytest.approx(PEAK)


def test_silence_stays_silent_on_either_side() -> None:
    sound, silence = torch.ones(100), torch.zeros(100)
    assert not as_loud_as(silence, sound).any()
    assert not as_loud_as(sound, silence).any()
