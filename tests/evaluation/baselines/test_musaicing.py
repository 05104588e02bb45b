from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from timbreflow.audio.features import FeatureConfig
from timbreflow.audio.inversion import GriffinLimInverter
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.musaicing import Musaicing, activate
from timbreflow.evaluation.system import SystemContext
from timbreflow.metrics.lsd import decibel_distance, mel_decibels

RATE = 16000
FEATURES = FeatureConfig("log_mel", RATE, 2048, 2000, 500, 128, 20.0, 8000.0, 0.01)
SETTINGS = {"repetition": 3, "polyphony": 4, "continuity": 3, "iterations": 30, "seed": 0}


def context() -> SystemContext:
    return SystemContext(FEATURES, Path, torch.device("cpu"), 0.0, 1.0, partial(GriffinLimInverter, n_iter=4))


def tones(pitches: list[int], partials: list[float]) -> torch.Tensor:
    """A quarter of a second a note, each struck and decaying."""
    time = np.arange(RATE // 4) / RATE
    notes = []
    for pitch in pitches:
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        waves = [level * np.sin(2 * np.pi * frequency * (k + 1) * time) for k, level in enumerate(partials)]
        notes.append(0.2 * np.exp(-6 * time) * np.sum(waves, axis=0))
    return torch.from_numpy(np.concatenate(notes).astype(np.float32))[None]


def lsd(first: torch.Tensor, second: torch.Tensor) -> float:
    return decibel_distance(mel_decibels(first[0].numpy()), mel_decibels(second[0].numpy()))


def test_a_content_made_of_its_own_frames_comes_back() -> None:
    sound = tones([60, 64, 67, 72, 71, 67, 62, 59], [1.0, 0.5, 0.25])
    made = Musaicing(context()).transfer(sound, sound, sound, seed=0)
    assert made.shape == sound.shape
    assert lsd(made, sound) < 3.0


def test_the_content_s_notes_get_the_style_s_partials() -> None:
    pitches = [60, 64, 67, 72, 67, 64]
    dark, bright = [1.0, 0.05], [1.0, 0.9, 0.8, 0.7, 0.6]
    content, target = tones(pitches, dark), tones(pitches, bright)
    style = tones([72, 60, 67, 64, 72, 60], bright)
    made = Musaicing(context()).transfer(content, style, target, seed=0)
    assert lsd(made, target) < 0.7 * lsd(content, target)


def test_equal_seeds_give_equal_bits_and_clips_do_not_depend_on_their_batch() -> None:
    contents = torch.cat([tones([60, 64], [1.0, 0.5]), tones([65, 62], [1.0, 0.1])])
    styles = torch.cat([tones([62, 60], [1.0, 0.9, 0.8]), tones([60, 69], [0.2, 1.0])])
    system = Musaicing(context(), iterations=10)
    together = system.transfer(contents, styles, contents, seed=3)
    alone = system.transfer(contents[1:], styles[1:], contents[1:], seed=3)
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together, system.transfer(contents, styles, contents, seed=4))


def test_no_frame_repeats_and_few_sound_at_once() -> None:
    rng = np.random.default_rng(1)
    content, style = rng.random((40, 30), dtype=np.float32), rng.random((40, 25), dtype=np.float32)
    # Without the filter along diagonals the restrictions can be seen in the activations themselves.
    found = activate(content, style, **SETTINGS | {"continuity": 0})
    assert found.shape == (25, 30)
    assert (np.count_nonzero(found, axis=0) <= 4).all()
    for row in found:
        assert (np.diff(np.flatnonzero(row)) > 3).all()


def test_continuity_makes_frames_follow_one_another() -> None:
    rng = np.random.default_rng(2)
    content, style = rng.random((40, 30), dtype=np.float32), rng.random((40, 25), dtype=np.float32)

    def along(found: np.ndarray) -> float:
        played = found > 0
        return float((played[1:, 1:] & played[:-1, :-1]).sum() / max(played.sum(), 1))

    assert along(activate(content, style, **SETTINGS)) > along(activate(content, style, **SETTINGS | {"continuity": 0}))


@pytest.mark.parametrize(("silent", "other"), [(True, False), (False, True), (True, True)])
def test_silence_gives_finite_sound(silent: bool, other: bool) -> None:
    tone = tones([60, 64], [1.0])
    content, style = (torch.zeros_like(tone) if quiet else tone for quiet in (silent, other))
    made = Musaicing(context(), iterations=5).transfer(content, style, tone, seed=0)
    assert torch.isfinite(made).all()
    if silent:
        assert made.abs().max() < 1e-3


def test_lengths_may_differ_and_the_content_s_is_kept() -> None:
    made = Musaicing(context(), iterations=3).transfer(
        tones([60, 64, 67], [1.0])[:, :-77], tones([60], [1.0, 0.5]), torch.zeros(1, 1), seed=0
    )
    assert made.shape == (1, 3 * RATE // 4 - 77)


def test_unusable_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(TimbreflowError, match="polyphony 0"):
        Musaicing(context(), polyphony=0)
    broken = torch.full((1, RATE), float("nan"))
    with pytest.raises(TimbreflowError, match="NaN"):
        Musaicing(context()).transfer(broken, torch.zeros(1, RATE), broken, seed=0)
