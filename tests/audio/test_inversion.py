"""Inversion gives the promised length, the same sound each time, and better sound than simpler ways."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from timbreflow.audio.features import FeatureConfig, FeatureExtractor
from timbreflow.audio.inversion import GriffinLimInverter
from timbreflow.errors import TimbreflowError

MEL = FeatureConfig("log_mel", 16000, 1024, 1000, 250, 80, 0.0, 8000.0, 0.01)
STFT = dataclasses.replace(MEL, kind="log_stft")


@pytest.fixture(scope="module")
def chords() -> Tensor:
    """Two clips of 1 s: decaying harmonic tones, two at a time: [2, 16000]."""
    time = np.arange(16000) / 16000
    clips = []
    for pitches in ((220.0, 277.2), (330.0, 440.0)):
        audio = np.zeros_like(time)
        for pitch in pitches:
            for harmonic in range(1, 9):
                audio += np.sin(2 * np.pi * pitch * harmonic * time) / harmonic
        clips.append(audio * np.exp(-3 * (time % 0.5)))
    audio = np.stack(clips)
    return torch.tensor(audio * 0.07 / audio.std(), dtype=torch.float32)


def distance(config: FeatureConfig, audio: Tensor, goal: Tensor) -> float:
    """Mean difference of log-magnitudes above -60 dB of the peak."""
    extractor = FeatureExtractor(dataclasses.replace(config, kind="log_stft"))
    first, second = (extractor.magnitude(x).clamp_min(0.05).log() for x in (audio, goal))
    return float((first - second).abs().mean())


def from_noise_phases(magnitude: Tensor, config: FeatureConfig) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    phases = torch.polar(torch.ones_like(magnitude), 6.283 * torch.rand(magnitude.shape, generator=generator))
    spectrum = torch.cat([magnitude * phases, (magnitude * phases)[..., -1:]], dim=-1)
    window = torch.hann_window(config.win_length)
    length = magnitude.shape[-1] * config.hop_length
    return torch.istft(spectrum, config.n_fft, config.hop_length, config.win_length, window, length=length)


@pytest.mark.parametrize("config", [MEL, STFT])
def test_iterations_beat_noise_phases(config: FeatureConfig, chords: Tensor) -> None:
    features = FeatureExtractor(config)(chords)
    inverter = GriffinLimInverter(config, n_iter=32)
    noisy = distance(config, from_noise_phases(inverter.magnitude(features), config), chords)
    ours = distance(config, inverter(features), chords)
    assert ours < 0.8 * noisy


def test_keeping_the_bands_beats_going_back_to_the_first_guess(chords: Tensor) -> None:
    features = FeatureExtractor(MEL)(chords)
    inverter = GriffinLimInverter(MEL, n_iter=32)
    fixed = GriffinLimInverter(STFT, n_iter=32)(inverter.magnitude(features).log1p())
    assert distance(MEL, inverter(features), chords) < distance(MEL, fixed, chords)


def test_a_start_near_the_truth_ends_nearer_than_drawn_phases(chords: Tensor) -> None:
    near = chords + 0.3 * chords.std() * torch.randn(chords.shape, generator=torch.Generator().manual_seed(0))
    for config in (MEL, STFT):
        features = FeatureExtractor(config)(chords)
        inverter = GriffinLimInverter(config, n_iter=4)
        drawn, begun = inverter(features), inverter(features, start=near[:, : features.shape[2] * 250])
        assert distance(config, begun, chords) < 0.8 * distance(config, drawn, chords)


def test_the_level_is_kept(chords: Tensor) -> None:
    for config in (MEL, STFT):
        audio = GriffinLimInverter(config, n_iter=16)(FeatureExtractor(config)(chords))
        assert 20 * float((audio.std() / chords.std()).log10().abs()) < 1.5


@pytest.mark.parametrize("config", [MEL, STFT])
@pytest.mark.parametrize("n_frames", [0, 1, 2, 7])
def test_any_number_of_frames_gives_so_many_hops(config: FeatureConfig, n_frames: int) -> None:
    audio = GriffinLimInverter(config, n_iter=2)(torch.zeros(3, config.n_features, n_frames))
    assert audio.shape == (3, n_frames * 250)
    assert torch.isfinite(audio).all()


def test_a_seed_decides_the_sound_alone_and_in_a_batch(chords: Tensor) -> None:
    inverter = GriffinLimInverter(MEL, n_iter=4)
    features = FeatureExtractor(MEL)(chords)
    torch.manual_seed(1)
    batch = inverter(features, seed=5)
    torch.manual_seed(2)
    assert torch.equal(batch, inverter(features, seed=5))
    assert torch.allclose(batch[1:], inverter(features[1:], seed=5), atol=1e-5)
    assert not torch.allclose(batch, inverter(features, seed=6), atol=1e-3)


def test_silence_stays_silent_and_overshoot_finite() -> None:
    inverter = GriffinLimInverter(MEL, n_iter=4)
    assert float(inverter(torch.full((1, 80, 8), float(np.log(0.01)))).abs().max()) < 1e-5
    assert float(inverter(torch.full((1, 80, 8), -20.0)).abs().max()) < 1e-5
    assert torch.isfinite(inverter(torch.full((1, 80, 8), 12.0))).all()


def test_what_cannot_be_inverted_is_refused() -> None:
    inverter = GriffinLimInverter(MEL, n_iter=1)
    with pytest.raises(TimbreflowError, match=r"give \[B, 80, T\]"):
        inverter(torch.zeros(1, 81, 4))
    with pytest.raises(TimbreflowError, match="NaN"):
        inverter(torch.full((1, 80, 4), torch.nan))
    for n_iter, momentum in ((0, 0.9), (8, 1.0), (8, -0.1)):
        with pytest.raises(TimbreflowError, match="Griffin-Lim cannot run"):
            GriffinLimInverter(MEL, n_iter=n_iter, momentum=momentum)
