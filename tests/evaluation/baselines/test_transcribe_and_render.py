from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from timbreflow.audio.features import FeatureConfig
from timbreflow.audio.inversion import GriffinLimInverter
from timbreflow.data.splits import held_out_programs, program_groups
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.patches import open_library, training_presets
from timbreflow.evaluation.baselines.transcribe_and_render import TranscribeAndRender
from timbreflow.evaluation.system import SystemContext
from timbreflow.evaluation.systems import COMPUTED, SYSTEMS
from timbreflow.metrics.timbre import mfcc_distance
from timbreflow.metrics.transcription import Transcriber
from timbreflow.notes.tables import Notes
from timbreflow.rendering.config import SoundFontSpec, SplitFractions
from timbreflow.rendering.soundfonts import Preset, bundled_soundfont
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.timbres import Layer
from timbreflow.testsets.baselines import BUILDERS

RATE = 16000
SECONDS = 4.0
FONT = "TimGM6mb"
FEATURES = FeatureConfig("log_mel", RATE, 2048, 2000, 500, 128, 20.0, 8000.0, 0.01)
CONTEXT = SystemContext(FEATURES, Path, torch.device("cpu"), 0.0, 1.0, partial(GriffinLimInverter, n_iter=4))
FRACTIONS = SplitFractions(0.1, 0.1, 0.125, 0.2)
PRESETS = [Preset(FONT, 0, program, "") for program in (0, 13, 19, 24, 48, 56, 73, 81)]
MELODY = Notes.of([0.1, 0.8, 1.5, 2.2, 2.9], [0.6] * 5, [62, 66, 69, 74, 71], [90] * 5)
TUNE = Notes.of([0.2, 0.9, 1.6, 2.3, 3.0], [0.6] * 5, [67, 64, 60, 65, 69], [90] * 5)


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer({FONT: bundled_soundfont()}, sample_rate=RATE)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TranscribeAndRender:
    return TranscribeAndRender(
        CONTEXT, paths={FONT: bundled_soundfont()}, presets=PRESETS, cache=tmp_path_factory.mktemp("patches")
    )


def play(synthesizer: Synthesizer, notes: Notes, program: int) -> np.ndarray:
    return synthesizer.play(notes, [Layer(FONT, 0, program, 0.0)], None, seconds=SECONDS)


def batch(*sounds: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(sounds))


@pytest.mark.parametrize("program", [0, 19, 24, 56, 73])
def test_the_patch_that_a_style_was_played_with_is_found(
    system: TranscribeAndRender, synthesizer: Synthesizer, program: int
) -> None:
    style = play(synthesizer, MELODY, program)
    assert system.choose_patch(style, Transcriber().transcribe([style], RATE)[0]).program == program


def test_the_content_s_notes_come_out_with_the_style_s_timbre(
    system: TranscribeAndRender, synthesizer: Synthesizer
) -> None:
    content, style, target = (play(synthesizer, n, p) for n, p in ((TUNE, 0), (MELODY, 56), (TUNE, 56)))
    made = system.transfer(batch(content), batch(style), batch(target) * float("nan"), seed=0)[0].numpy()
    assert mfcc_distance(made, target) < 0.2 * mfcc_distance(content, target)
    # The transcriber hears ghosts beside the notes, in the content and again in the output: no true one may be lost.
    heard = Transcriber().transcribe([made], RATE)[0]
    for onset, pitch in zip(TUNE.onset, TUNE.pitch, strict=True):
        assert np.abs(heard.onset[heard.pitch == pitch] - onset).min() < 0.05
    assert np.sqrt(np.mean(made**2)) == pytest.approx(np.sqrt(np.mean(content**2)), rel=1e-3)


def test_equal_input_gives_equal_bits_alone_and_in_a_batch(
    system: TranscribeAndRender, synthesizer: Synthesizer
) -> None:
    contents = batch(play(synthesizer, TUNE, 0), play(synthesizer, MELODY, 24))
    styles = batch(play(synthesizer, MELODY, 73), play(synthesizer, TUNE, 19))
    together = system.transfer(contents, styles, contents, seed=0)
    alone = system.transfer(contents[1:], styles[1:], contents[1:], seed=1)
    assert torch.equal(together[1:], alone)


def test_silence_gives_silence_and_a_style_without_notes_some_patch(
    system: TranscribeAndRender, synthesizer: Synthesizer
) -> None:
    sound = batch(play(synthesizer, TUNE, 0))
    assert not system.transfer(torch.zeros_like(sound), sound, sound, seed=0).any()
    assert system.transfer(sound, torch.zeros_like(sound), sound, seed=0).any()


def test_the_library_is_kept_and_a_broken_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, presets = {FONT: bundled_soundfont()}, PRESETS[:2]
    made = open_library(paths, presets, sample_rate=RATE, folder=tmp_path)
    assert made.statistics.shape == (2, 3, 24)
    monkeypatch.setattr("timbreflow.evaluation.baselines.patches.Synthesizer", None)
    read = open_library(paths, presets, sample_rate=RATE, folder=tmp_path)
    np.testing.assert_array_equal(read.statistics, made.statistics)
    (kept,) = tmp_path.glob("*.npz")
    kept.write_bytes(b"broken")
    with pytest.raises(TimbreflowError, match=r"delete it"):
        open_library(paths, presets, sample_rate=RATE, folder=tmp_path)


def test_neither_test_fonts_nor_held_out_programs_are_played() -> None:
    paths = {FONT: bundled_soundfont(), "Secret": bundled_soundfont()}
    specs = [SoundFontSpec(FONT, "", "train"), SoundFontSpec("Secret", "", "test")]
    presets = training_presets(paths, specs, FRACTIONS)
    assert {preset.soundfont for preset in presets} == {FONT}
    held_out = held_out_programs(program_groups(()), FRACTIONS.test_programs)  # as the stored row was made
    assert held_out.isdisjoint(preset.program for preset in presets)
    assert len(presets) > 80


def test_every_stored_row_can_be_built() -> None:
    assert set(BUILDERS) == {name for name, spec in SYSTEMS.items() if spec.kind == "stored"}
    assert set(BUILDERS) | set(COMPUTED) == set(SYSTEMS)
