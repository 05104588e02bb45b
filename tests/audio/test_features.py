"""Features have the promised shape, agree with librosa, and come back from normalisation."""

import dataclasses

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer, mel_filterbank
from timbreflow.errors import TimbreflowError

MEL = FeatureConfig("log_mel", 16000, 2048, 2000, 500, 128, 0.0, 8000.0, 0.01)
STFT = dataclasses.replace(MEL, kind="log_stft")
EXTRACTORS: dict[str, FeatureExtractor] = {config.kind: FeatureExtractor(config) for config in (MEL, STFT)}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 6000), st.sampled_from(["log_mel", "log_stft"]))
def test_there_are_exactly_n_over_hop_frames(n_samples: int, kind: str) -> None:
    features = EXTRACTORS[kind](torch.randn(2, n_samples))
    assert features.shape == (2, EXTRACTORS[kind].config.n_features, n_samples // 500)
    assert torch.isfinite(features).all()


def test_eight_seconds_are_256_frames() -> None:
    assert MEL.n_frames(8 * 16000) == 256
    assert MEL.seconds_per_frame == 500 / 16000
    assert (MEL.n_features, STFT.n_features) == (128, 1025)


@pytest.mark.parametrize("config", [MEL, dataclasses.replace(MEL, n_mels=80, fmin=40.0, fmax=7600.0, hop_length=256)])
def test_log_mel_agrees_with_librosa(config: FeatureConfig) -> None:
    audio = np.random.default_rng(0).normal(0, 0.07, 20000).astype(np.float32)
    reference = librosa.feature.melspectrogram(
        y=audio,
        sr=config.sample_rate,
        n_fft=config.n_fft,
        win_length=config.win_length,
        hop_length=config.hop_length,
        n_mels=config.n_mels,
        fmin=config.fmin,
        fmax=config.fmax,
        power=1.0,
        norm=None,
        pad_mode="constant",
    )[:, : len(audio) // config.hop_length]
    ours = FeatureExtractor(config)(torch.from_numpy(audio)[None])[0].numpy()
    assert np.abs(ours - np.log(np.maximum(reference, config.floor))).max() < 1e-3


def test_log_stft_agrees_with_librosa() -> None:
    audio = np.random.default_rng(0).normal(0, 0.07, 20000).astype(np.float32)
    reference = np.log1p(np.abs(librosa.stft(audio, n_fft=2048, win_length=2000, hop_length=500, pad_mode="constant")))
    assert np.abs(EXTRACTORS["log_stft"](torch.from_numpy(audio)[None])[0].numpy() - reference[:, :40]).max() < 1e-3


def test_silence_lies_at_the_floor_and_half_precision_holds_the_loudest() -> None:
    silence, loudest = torch.zeros(1, 4000), torch.ones(1, 4000)
    assert torch.allclose(EXTRACTORS["log_mel"](silence), torch.tensor(0.01).log())
    assert torch.isfinite(EXTRACTORS["log_mel"](loudest).half()).all()
    # The last bit of a 16-bit file is silence too.
    noise = (torch.rand(1, 16000, generator=torch.Generator().manual_seed(0)) - 0.5) / 32768
    assert float((EXTRACTORS["log_mel"](noise) > np.log(0.01) + 1e-6).float().mean()) < 0.01


def test_gradients_reach_the_sound() -> None:
    for extractor in EXTRACTORS.values():
        audio = torch.randn(1, 4000, requires_grad=True)
        extractor(audio).sum().backward()
        assert audio.grad is not None
        assert torch.isfinite(audio.grad).all()
        assert float(audio.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "mel"},
        {"win_length": 4096},
        {"hop_length": 1001},
        {"hop_length": 0},
        {"fmax": 9000.0},
        {"fmin": 8000.0},
        {"floor": 0.0},
        {"n_mels": 0},
        {"sample_rate": 0},
    ],
)
def test_numbers_that_contradict_each_other_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TimbreflowError, match=next(iter(changes))):
        dataclasses.replace(MEL, **changes)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_mel_bands_without_a_bin_are_refused() -> None:
    with pytest.raises(TimbreflowError, match="lower n_mels"):
        mel_filterbank(dataclasses.replace(MEL, n_fft=256, win_length=256, hop_length=64, n_mels=128))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 20), st.integers(0, 9), st.integers(0, 10**6))
def test_normalisation_comes_back(n_features: int, n_frames: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    normalizer = Normalizer(
        mean=torch.randn(n_features, generator=generator), std=torch.rand(n_features, generator=generator) + 0.1
    )
    features = torch.randn(2, n_features, n_frames, generator=generator)
    assert torch.allclose(normalizer.denormalize(normalizer.normalize(features)), features, atol=1e-5)
    again = Normalizer.from_statistics(normalizer.statistics())
    assert torch.equal(again.mean, normalizer.mean)
    assert torch.equal(again.std, normalizer.std)


def test_statistics_that_cannot_normalise_are_refused() -> None:
    for statistics in (
        {"mean": [0.0]},
        {"mean": [0.0], "std": [0.0]},
        {"mean": [float("nan")], "std": [1.0]},
        {"mean": [0.0, 1.0], "std": [1.0]},
        {"mean": "x", "std": [1.0]},
    ):
        with pytest.raises(TimbreflowError, match="run extract_mels again"):
            Normalizer.from_statistics(statistics)
