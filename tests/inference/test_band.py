"""The band above the models' reach is the style's, and what lies below stays."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from timbreflow.audio.files import read_audio, write_audio
from timbreflow.inference.band import EDGE, OVERLAP, SOURCE, BandAbove, BandTable, Grid
from timbreflow.inference.transfer import TimbreTransfer

RATE = 48000
Sound = NDArray[np.float32]


def noise(seconds: float, low: float, high: float, *, seed: int = 0, rate: int = RATE) -> Sound:
    """Noise between two frequencies in Hz."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(round(seconds * rate)))
    hertz = np.fft.rfftfreq(round(seconds * rate), 1 / rate)
    sound = np.fft.irfft(spectrum * ((hertz >= low) & (hertz < high)), round(seconds * rate))
    return (0.1 * sound / sound.std()).astype(np.float32)


def power_db(sound: NDArray[np.floating], low: float, high: float, *, rate: int = RATE) -> float:
    """Power between two frequencies in Hz, in dB."""
    hertz = np.fft.rfftfreq(len(sound), 1 / rate)
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float(10 * np.log10(power[(hertz >= low) & (hertz < high)].sum() / len(sound) ** 2 + 1e-20))


def band_of(*styles: Sound, rate: int = RATE, weights: tuple[float, ...] = ()) -> BandAbove:
    band = BandAbove.blended((BandTable.of(style, rate) for style in styles), weights or [1.0] * len(styles))
    assert band is not None
    return band


def extended(band: BandAbove, sound: Sound, *, rate: int = RATE, block: int = 1 << 30) -> Sound:
    blocks = [sound[start : start + block] for start in range(0, len(sound), block)]
    return np.concatenate(list(band.extended(blocks, rate)))


DARK, BRIGHT = noise(2, 100, 7000), noise(2, 100, 20000)
"""Two instruments: the first has nothing above."""


@pytest.mark.parametrize("style", [BRIGHT, DARK], ids=["bright", "dark"])
def test_the_band_above_is_as_strong_as_the_styles(style: Sound) -> None:
    result = extended(band_of(style), noise(1, 100, 7200, seed=1))
    ratio, own = (power_db(sound, 8200, 20000) - power_db(sound, 3500, 7000) for sound in (result, style))
    assert abs(ratio - own) < 1.5 or max(ratio, own) < -60


def test_frames_get_what_like_frames_of_the_style_have() -> None:
    hiss, hum = noise(1, 3000, 20000), noise(1, 100, 2000, seed=2)  # hiss has a band above, hum has none
    band = band_of(np.concatenate((hiss, hum)))
    result = extended(band, np.concatenate((noise(1, 100, 2000, seed=3), noise(1, 3000, 7200, seed=4))))
    assert power_db(result[:40000], 8000, 20000) < -65
    assert power_db(result[52000:], 8000, 20000) > -32


def test_what_lies_below_stays() -> None:
    sound = noise(1, 100, 7000, seed=5)
    difference = extended(band_of(BRIGHT), sound) - sound
    assert power_db(difference, 0, 7000) < power_db(sound, 0, 7000) - 50


@pytest.mark.parametrize("block", [1, 333, 5000])
def test_blocks_make_no_difference(block: int) -> None:
    sound, band = noise(0.2 if block == 1 else 1, 100, 7200), band_of(BRIGHT)
    np.testing.assert_allclose(extended(band, sound, block=block), extended(band, sound), atol=1e-6)
    assert len(extended(band, sound, block=block)) == len(sound)


def test_a_sample_leaves_two_windows_later() -> None:
    sound, given = noise(1, 100, 7200), 0

    def blocks() -> object:
        nonlocal given
        for start in range(0, len(sound), 100):
            given = start + 100
            yield sound[start : start + 100]

    made = 0
    for part in band_of(BRIGHT).extended(blocks(), RATE):  # type: ignore[arg-type]
        assert given - made <= 2 * Grid(RATE).size + 100
        made += len(part)
    assert made == len(sound)


@pytest.mark.parametrize("rate", [32000, 44100, 48000, 88200, 96000])
def test_moved_partials_stay_partials(rate: int) -> None:
    """A steady tone is moved without beating: the phases of moved bins go on from frame to frame."""
    assert SOURCE % OVERLAP == 0
    time = np.arange(rate) / rate
    tone = (0.1 * np.sin(2 * np.pi * 6000 * time)).astype(np.float32)
    style = tone + 0.05 * np.sin(2 * np.pi * (6000 + SOURCE * rate / Grid(rate).size) * time).astype(np.float32)
    result = extended(band_of(style, rate=rate), tone, rate=rate)[rate // 4 : -rate // 4]
    spectrum = np.abs(np.fft.rfft(result * np.hanning(len(result))))
    above = np.fft.rfftfreq(len(result), 1 / rate) > EDGE + 500
    peak = np.fft.rfftfreq(len(result), 1 / rate)[above][np.argmax(spectrum[above])]
    assert abs(peak - (6000 + SOURCE * rate / Grid(rate).size)) < 4
    near = np.sort(spectrum[above])[::-1]
    assert (near[:6] ** 2).sum() > 0.9 * (near**2).sum()


def test_styles_without_the_band_leave_it_to_the_others() -> None:
    low_rate = BandTable.of(noise(1, 100, 7000, rate=16000), 16000)
    assert low_rate is None
    assert BandAbove.blended([low_rate], [1.0]) is None
    assert BandTable.of(np.zeros(100, np.float32), RATE) is None
    mixed = BandAbove.blended([low_rate, BandTable.of(BRIGHT, RATE)], [0.5, 0.5])
    assert mixed is not None
    assert mixed.weights == (1.0,)


def test_a_blend_lies_between_its_styles() -> None:
    sound = noise(1, 100, 7200, seed=1)
    levels = [
        power_db(extended(band_of(DARK, BRIGHT, weights=weights), sound), 8000, 20000)
        for weights in ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    ]
    assert levels[0] < levels[1] - 3 < levels[2] - 6


@pytest.mark.parametrize(("rate", "seconds"), [(16000, 0.5), (8000, 1)])
def test_contents_of_low_rates_stay_as_they_were(vqvae: TimbreTransfer, rate: int, seconds: float) -> None:
    content = noise(seconds, 100, 3500, rate=rate)
    given = {"sample_rate": rate, "style_sample_rate": RATE}
    full, model = (vqvae.transfer(content, BRIGHT, band=band, **given) for band in ("full", "model"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(full, model)


def test_transfers_have_the_styles_band_and_streams_the_same(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    content = noise(1.5, 100, 20000, seed=7)
    whole = {band: vqvae.transfer(content, BRIGHT, sample_rate=RATE, band=band) for band in ("full", "model")}  # type: ignore[arg-type]
    assert power_db(whole["model"], 8500, 20000) < power_db(whole["full"], 8500, 20000) - 20
    for name, sound in (("content", content), ("style", BRIGHT)):
        write_audio(tmp_path / f"{name}.wav", sound, RATE)
    result = vqvae.transfer_file(tmp_path / "content.wav", tmp_path / "style.wav", tmp_path / "out.wav")
    written, _ = read_audio(tmp_path / "out.wav")
    np.testing.assert_allclose(written[0], whole["full"], atol=1e-4)
    parts = vqvae.stream([content[:30000], content[30000:]], BRIGHT, sample_rate=RATE, levels=result.levels)
    np.testing.assert_allclose(np.concatenate(list(parts)), whole["full"], atol=1e-4)


def test_at_strength_0_the_band_is_the_contents_own(vqvae: TimbreTransfer) -> None:
    content = noise(1.5, 100, 7300, seed=7)
    levels = [
        power_db(vqvae.transfer(content, BRIGHT, sample_rate=RATE, strength=strength), 8500, 20000)
        for strength in (0.0, 1.0)
    ]
    assert levels[0] < levels[1] - 15
