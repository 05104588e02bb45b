"""Notes looked up in the style: the vectorised look-up against plain loops, and the learned one."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from timbreflow.audio.features import FeatureConfig, FeatureExtractor
from timbreflow.models.lookup import (
    OLDEST_FRAMES,
    TAIL_FRAMES,
    THRESHOLD,
    NoteLookup,
    NoteTimes,
    StyleFrames,
    Transposition,
    hand_set_skeleton,
)
from timbreflow.models.refiner import partial_maps

BANDS: dict[str, Any] = {"n_bands": 128, "fmin": 20.0, "fmax": 8000.0}
FLOOR = 0.01


def transposition() -> Transposition:
    return Transposition(**BANDS, floor=FLOOR)


def roll(clips: int, frames: int, *, seed: int) -> torch.Tensor:
    """Melodies of two voices with rests, as probabilities that differ from pitch to pitch."""
    random = np.random.default_rng(seed)
    probabilities = random.uniform(0, THRESHOLD - 0.01, (clips, 128, frames)).astype(np.float32)
    for clip in probabilities:
        for _ in range(2):
            time = int(random.integers(4))
            while time < frames:
                length = int(random.integers(2, 9))
                clip[random.integers(40, 80), time : time + length] = random.uniform(0.5, 1.0)
                time += length + int(random.integers(5))
    return torch.from_numpy(probabilities)


def spectra(clips: int, frames: int, *, seed: int) -> torch.Tensor:
    return torch.randn(clips, 128, frames, generator=torch.Generator().manual_seed(seed)) - 1


def age_of(sounding: np.ndarray, pitch: int, frame: int) -> int:
    start = frame
    while start > 0 and sounding[pitch, start - 1]:
        start -= 1
    return frame - start


def slow_skeleton(content_roll: np.ndarray, style_roll: np.ndarray, style: np.ndarray) -> np.ndarray:
    """The definition, note by note and frame by frame."""
    transpose = transposition()
    content, reference = content_roll > THRESHOLD, style_roll > THRESHOLD
    power = np.full((128, content.shape[1]), FLOOR**2)
    keys = []
    for frame in range(reference.shape[1]):
        if reference[:, frame].any():
            pitch = int(style_roll[:, frame].argmax())
            keys.append((frame, pitch, age_of(reference, pitch, frame), int(reference[:, frame].sum()) - 1))
    for time in range(content.shape[1]) if keys else ():
        for p in np.flatnonzero(content[:, time]):
            age = age_of(content, int(p), time)
            logits = np.array([-abs(p - q) / 3 - abs(age - a) / 2 - others for _, q, a, others in keys])
            weights = np.exp(logits - logits.max())
            moved = [
                transpose(torch.from_numpy(style[:, frame]), torch.tensor(int(p - q))).numpy()
                for frame, q, _, _ in keys
            ]
            power[:, time] += np.exp(2 * (weights / weights.sum()) @ np.array(moved))
    return np.log(power) / 2


def test_skeleton_is_that_of_the_definition() -> None:
    content_roll, style_roll, style = roll(3, 20, seed=1), roll(3, 24, seed=2), spectra(3, 24, seed=3)
    style_roll[2] = 0.0  # a style without notes has nothing to look up
    found = hand_set_skeleton(content_roll, style_roll, style, transposition())
    for clip in range(3):
        expected = slow_skeleton(*(x[clip].numpy() for x in (content_roll, style_roll, style)))
        np.testing.assert_allclose(found[clip].numpy(), expected, atol=2e-4)
    assert float(found[2].max()) == pytest.approx(math.log(FLOOR), abs=1e-5)
    silent = found[0][:, (content_roll[0] <= THRESHOLD).all(0)]
    assert silent.numel()
    assert float(silent.max()) == pytest.approx(math.log(FLOOR), abs=1e-5)


@pytest.mark.parametrize("semitones", [-12, -5, 0, 7, 12])
def test_a_transposed_tone_has_the_spectrum_of_the_tone_at_that_pitch(semitones: int) -> None:
    features = FeatureConfig("log_mel", 16000, 2048, 2000, 500, 128, 20.0, 8000.0, FLOOR)
    seconds = torch.arange(16000) / 16000

    def tone(pitch: float) -> torch.Tensor:
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        sound = torch.stack([0.3 / k * torch.sin(2 * math.pi * k * hertz * seconds) for k in range(1, 4)]).sum(0)
        spectrum: torch.Tensor = FeatureExtractor(features)(sound[None])[0, :, 16]
        return spectrum

    moved = transposition()(tone(72), torch.tensor(semitones))
    true = tone(72 + semitones)
    peaks = [band for band in range(1, 127) if true[band] > 2 and true[band] >= true[band - 1 : band + 2].max()]
    assert peaks
    for band in peaks:
        assert abs(int(moved[max(0, band - 2) : band + 3].argmax()) + max(0, band - 2) - band) <= 1
    if semitones == 0:
        torch.testing.assert_close(moved, true, atol=2e-3, rtol=0)


def test_bands_from_beyond_the_spectrum_are_silent() -> None:
    moved = transposition()(torch.zeros(128), torch.tensor(-12))
    assert moved[0] == 0
    assert moved[-1] == pytest.approx(math.log(FLOOR))


def test_times_of_notes() -> None:
    sounding = torch.zeros(1, 128, 10, dtype=torch.bool)
    sounding[0, 60, 2:5] = sounding[0, 60, 7:8] = True
    times = NoteTimes.of(sounding)
    assert times.age[0, 60, 2:].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert times.released[0, 60, 2:].tolist() == [0, 0, 0, 1, 2, 0, 1, 2]
    assert (times.released[0, 60, :2] > TAIL_FRAMES).all()


def test_a_note_at_the_start_of_a_continued_clip_began_long_ago() -> None:
    sounding = torch.zeros(2, 128, 10, dtype=torch.bool)
    sounding[:, 60, :4] = sounding[:, 60, 6:9] = True
    times = NoteTimes.of(sounding, torch.tensor([False, True]))
    assert times.age[0, 60].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert (times.age[1, 60, :6] > 10**6).all()
    assert times.age[1, 60, 6:].tolist() == [0, 1, 2, 3]  # struck again inside the clip
    assert times.released[1].tolist() == times.released[0].tolist()


@pytest.mark.parametrize(("held", "oldest"), [(20, OLDEST_FRAMES), (90, 89)])
def test_no_age_is_beyond_what_the_style_shows(held: int, oldest: int) -> None:
    probabilities = torch.zeros(1, 128, 100)
    probabilities[0, 60, :held] = 0.9
    times = NoteTimes.of(torch.ones(1, 128, 200, dtype=torch.bool)).limited(StyleFrames.of(probabilities))
    assert times.age[0, 5].tolist() == [min(age, oldest) for age in range(200)]


def test_a_frame_of_the_style_belongs_to_its_most_salient_pitch_and_then_to_the_last_one_that_ended() -> None:
    probabilities = torch.zeros(1, 128, 40)
    probabilities[0, 60, 0:6], probabilities[0, 64, 2:5] = 0.6, 0.9
    keys = StyleFrames.of(probabilities)
    assert keys.pitch[0, :8].tolist() == [60, 60, 64, 64, 64, 60, 60, 60]
    assert keys.others[0, :8].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert keys.released[0, 5:8].tolist() == [0, 1, 2]
    assert keys.valid[0].tolist() == [True] * (6 + TAIL_FRAMES) + [False] * (34 - TAIL_FRAMES)


def lookup(heads: int = 4) -> NoteLookup:
    torch.manual_seed(0)
    return NoteLookup(transposition(), partial_maps(**BANDS)[0], heads=heads)


def test_the_learned_look_up_copies_a_note_that_the_style_plays_and_its_tail() -> None:
    content_roll, style_roll = torch.zeros(1, 128, 12), torch.zeros(1, 128, 40)
    content_roll[0, 60, 2:6] = 0.9
    style_roll[0, 60, 0:4] = style_roll[0, 40, 30:40] = 0.9
    style = spectra(1, 40, seed=5)
    found = lookup()(content_roll, torch.zeros(1, 128, 12), style_roll, style)
    assert found.shape == (1, 4, 128, 12)
    sharpest = found[0, 2]
    floored = torch.logaddexp(2 * style[0], torch.tensor(2 * math.log(FLOOR))) / 2
    for frame in range(2, 9):  # sounding to 5, then released
        alike = torch.corrcoef(torch.cat([sharpest[:, frame][None], floored.T]))[0, 1:]
        assert abs(int(alike.argmax()) - (frame - 2)) <= 1
    assert float(found[..., :2].max()) == pytest.approx(math.log(FLOOR), abs=1e-5)


def test_held_notes_get_the_styles_oldest_frames_and_so_do_those_of_a_continued_clip() -> None:
    content_roll, style_roll = torch.zeros(2, 128, 120), torch.zeros(2, 128, 60)
    content_roll[:, 60], style_roll[:, 60] = 0.9, 0.9
    style = spectra(1, 60, seed=5).repeat(2, 1, 1)
    found = lookup()(content_roll, torch.zeros(2, 128, 120), style_roll, style, continued=torch.tensor([False, True]))[
        :, 2
    ]
    torch.testing.assert_close(found[0, :, 59:], found[0, :, 59:60].expand(-1, 61))
    torch.testing.assert_close(found[1], found[0, :, 59:60].expand(-1, 120))
    assert (found[0, :, 0] - found[1, :, 0]).abs().max() > 0.1


def test_gradients_reach_every_weight_of_the_look_up() -> None:
    model = lookup()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    found = model(roll(2, 20, seed=1), spectra(2, 20, seed=2), roll(2, 24, seed=3), spectra(2, 24, seed=4))
    found.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_clips_of_a_batch_do_not_mix() -> None:
    inputs = (roll(3, 20, seed=1), spectra(3, 20, seed=2), roll(3, 24, seed=3), spectra(3, 24, seed=4))
    model = lookup()
    together = model(*inputs)
    for clip in range(3):
        torch.testing.assert_close(together[clip], model(*(x[clip : clip + 1] for x in inputs))[0])


def test_nothing_sounds_anywhere() -> None:
    silent = torch.zeros(2, 128, 8)
    found = lookup()(silent, spectra(2, 8, seed=1), silent, spectra(2, 8, seed=2))
    torch.testing.assert_close(found, torch.full_like(found, math.log(FLOOR)))
