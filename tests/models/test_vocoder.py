"""The vocoder's length, determinism, gradients and reach, and its inverse transform against a known signal."""

import dataclasses
import math

import pytest
import torch

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.models.vocoder import InverseSTFT, Vocoder, VocoderConfig

TINY = VocoderConfig(
    n_features=12,
    hop_length=40,
    upsample=4,
    n_fft=100,
    win_length=64,
    width=16,
    expansion=2,
    n_coarse_blocks=1,
    n_fine_blocks=2,
    kernel=5,
)
SHAPES = [
    TINY,
    dataclasses.replace(TINY, upsample=1, n_fft=160, win_length=160, n_fine_blocks=0),
    dataclasses.replace(TINY, win_length=20),
]


def made(config: VocoderConfig = TINY) -> Vocoder:
    torch.manual_seed(0)
    model = Vocoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("frames", [1, 2, 7, 33])
def test_length_is_frames_times_hop(config: VocoderConfig, frames: int) -> None:
    sound = made(config)(torch.randn(3, 12, frames))
    assert sound.shape == (3, frames * 40)
    assert sound.dtype == torch.float32
    assert bool(torch.isfinite(sound).all())


def test_same_sound_again_and_in_any_batch() -> None:
    model, x = made(), torch.randn(3, 12, 9)
    with torch.no_grad():
        first = model(x)
        assert torch.equal(first, model(x))
        torch.testing.assert_close(model(x[1:2]), first[1:2], rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_weight_and_the_features() -> None:
    model, x = made(), torch.randn(2, 12, 6, requires_grad=True)
    model(x).square().mean().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("config", SHAPES)
def test_nothing_beyond_the_context_matters(config: VocoderConfig) -> None:
    model, reach = made(config), config.context_frames
    x = torch.randn(1, 12, 3 * reach + 1)
    changed = x.clone()
    changed[:, :, 2 * reach :] += 5.0
    with torch.no_grad():
        before, after = model(x), model(changed)
    same = reach * config.hop_length
    torch.testing.assert_close(before[:, :same], after[:, :same], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before[:, same:], after[:, same:])


@pytest.mark.parametrize(("win_length", "hop"), [(64, 16), (64, 10), (64, 32), (512, 125)])
def test_inverse_transform_gives_the_sound_back(win_length: int, hop: int) -> None:
    count = 12
    torch.manual_seed(0)
    sound = torch.randn(2, count * hop)
    begin = (win_length - hop) // 2
    padded = torch.nn.functional.pad(sound, (begin, win_length - hop - begin))
    frames = padded.unfold(1, win_length, hop)
    for n_fft in (win_length, 3 * win_length):
        spectrum = torch.fft.rfft(frames, n=n_fft, dim=-1).transpose(1, 2)
        made_again = InverseSTFT(n_fft, win_length, hop)(spectrum)
        torch.testing.assert_close(made_again, sound, rtol=1e-3, atol=1e-4)


def test_a_held_tone_has_the_pitch_of_its_bin_whatever_the_frame_rate() -> None:
    model, tone = made(), 13
    with torch.no_grad():
        model.out_proj.weight.zero_()
        model.levels.weight.zero_()
        model.out_proj.bias.zero_()
        model.out_proj.bias[:51] = -50.0
        model.out_proj.bias[tone] = math.log(50)
        sound = model(torch.randn(1, 12, 30), first_frame=7)[0]
    # The first window opens before the first sample; its clock starts there.
    time = torch.arange(1200) + 7 * 40 + (64 - 10) // 2
    torch.testing.assert_close(sound, torch.cos(2 * torch.pi * tone / 100 * time), rtol=0, atol=1e-4)


def test_it_starts_from_noise_of_the_given_spectrum() -> None:
    features = FeatureConfig("log_mel", 16000, 2048, 2000, 500, 40, 20.0, 8000.0, 0.01)
    shape = VocoderConfig(40, 500, 4, 2000, 512, 16, 2, 1, 1, 5)
    torch.manual_seed(0)
    time = torch.arange(16000) / 16000
    tones = [0.05 * torch.sin(2 * torch.pi * f * time) for f in (440, 1250, 3100)]
    sound = torch.stack(tones).sum(0) * torch.exp(-2 * time) + 0.003 * torch.randn(16000)
    extract = FeatureExtractor(features)
    mel = extract(sound[None])
    normalizer = Normalizer(mean=mel[0].mean(1), std=mel[0].std(1) + 0.1)
    model = Vocoder(shape)
    model.start_from(features, normalizer)
    with torch.no_grad():
        again = extract(model(normalizer.normalize(mel)))
    assert float((again - mel).abs().mean()) < 0.7
    with pytest.raises(TimbreflowError, match="make the two sections agree"):
        made().start_from(features, normalizer)


def test_a_later_part_of_a_clip_goes_on_where_the_first_ended() -> None:
    model, reach = made(), TINY.context_frames
    x = torch.randn(1, 12, 4 * reach + 3)
    with torch.no_grad():
        whole, part = model(x), model(x[:, :, reach:], first_frame=reach)
    torch.testing.assert_close(part[:, reach * 40 :], whole[:, 2 * reach * 40 :], rtol=1e-4, atol=1e-5)


def test_extreme_features_stay_finite_under_half_precision() -> None:
    model = made()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        sound = model(1e4 * torch.randn(1, 12, 5))
    assert sound.dtype == torch.float32
    assert bool(torch.isfinite(sound).all())


def test_the_shipped_size_is_small() -> None:
    config = VocoderConfig(
        n_features=128,
        hop_length=500,
        upsample=4,
        n_fft=4000,
        win_length=512,
        width=256,
        expansion=3,
        n_coarse_blocks=2,
        n_fine_blocks=5,
        kernel=7,
    )
    assert sum(parameter.numel() for parameter in Vocoder(config).parameters()) < 6_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upsample": 3}, "divide"),
        ({"win_length": 18}, "win_length"),
        ({"win_length": 120}, "win_length"),
        ({"n_fft": 65}, "n_fft"),
        ({"win_length": 33}, "win_length"),
        ({"kernel": 4}, "odd"),
        ({"width": 0}, "width"),
        ({"n_coarse_blocks": 0, "n_fine_blocks": 0}, "blocks"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(TimbreflowError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize("shape", [(1, 11, 4), (12, 4), (1, 12, 0)])
def test_other_features_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TimbreflowError, match="do not fit"):
        made()(torch.zeros(shape))
