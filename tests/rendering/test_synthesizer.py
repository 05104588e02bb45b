import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import Notes
from timbreflow.rendering import synthesizer as module
from timbreflow.rendering.soundfonts import BUNDLED, bundled_soundfont
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.timbres import Layer, Synthesis

NEUTRAL = dict.fromkeys(Synthesis.__dataclass_fields__, 0.0)
MakeNotes = Callable[..., Notes]


def layer(program: int, gain_db: float = 0.0) -> Layer:
    return Layer(BUNDLED, 0, program, gain_db)


def one_note(pitch: int = 69, seconds: float = 1.0) -> Notes:
    return Notes.of([0.1], [seconds], [pitch], [100])


def clip(synthesizer: Synthesizer, notes: Notes, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layers = [layer(int(p), -float(rng.uniform(0, 9))) for p in rng.integers(0, 112, rng.integers(1, 4))]
    synthesis = Synthesis(**{**NEUTRAL, "filter_cutoff": -2000.0, "vibrato_depth": 20.0, "release": 1200.0})
    return synthesizer.play(notes, layers, synthesis if seed % 2 else None, seconds=2.0)


def test_a_clip_does_not_depend_on_the_clips_before_it(synthesizer: Synthesizer, make_notes: MakeNotes) -> None:
    alone = []
    for seed in range(8):
        fresh = Synthesizer({BUNDLED: bundled_soundfont()}, sample_rate=16000)
        alone.append(clip(fresh, make_notes(seed), seed))
        fresh.close()
    for seed in np.random.default_rng(0).permutation(np.repeat(np.arange(8), 3)):
        again = clip(synthesizer, make_notes(seed), int(seed))
        np.testing.assert_array_equal(again, alone[seed])


def test_threads_with_synthesizers_of_their_own_do_not_disturb_each_other(
    synthesizer: Synthesizer, make_notes: MakeNotes
) -> None:
    alone = [clip(synthesizer, make_notes(seed), seed) for seed in range(6)]
    together = Barrier(4)

    def play_all() -> list[np.ndarray]:
        # Fonts are loaded and freed, and synthesizers made and deleted, while others play.
        together.wait()
        played = []
        for seed in range(6):
            own = Synthesizer({BUNDLED: bundled_soundfont()}, sample_rate=16000)
            played.append(clip(own, make_notes(seed), seed))
            own.close()
        return played

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(play_all) for _ in range(4)]:
            np.testing.assert_array_equal(future.result(), alone)


def test_another_process_gives_the_same_bits(synthesizer: Synthesizer, tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np\n"
        "from timbreflow.notes.tables import Notes\n"
        "from timbreflow.rendering.soundfonts import BUNDLED, bundled_soundfont\n"
        "from timbreflow.rendering.synthesizer import Synthesizer\n"
        "from timbreflow.rendering.timbres import Layer\n"
        "made = Synthesizer({BUNDLED: bundled_soundfont()}, sample_rate=16000)\n"
        "notes = Notes.of([.1, .5], [1., 1.], [60, 67], [90, 80])\n"
        "np.save(sys.argv[1], made.play(notes, [Layer(BUNDLED, 0, 40, 0.0)], None, seconds=1.0))\n"
    )
    # Through a file: what libraries print on standard output when they are loaded is none of our bits.
    subprocess.run([sys.executable, "-c", script, tmp_path / "other.npy"], check=True)
    notes = Notes.of([0.1, 0.5], [1.0, 1.0], [60, 67], [90, 80])
    mine = synthesizer.play(notes, [layer(40)], None, seconds=1.0)
    np.testing.assert_array_equal(np.load(tmp_path / "other.npy"), mine)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.23456])
def test_length_is_exact(synthesizer: Synthesizer, seconds: float) -> None:
    audio = synthesizer.play(one_note(), [layer(0)], None, seconds=seconds)
    assert audio.shape == (round(seconds * 16000),)
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()


def test_pitch_and_onset_are_those_of_the_note(synthesizer: Synthesizer) -> None:
    audio = synthesizer.play(one_note(69), [layer(80)], None, seconds=1.0)
    spectrum = np.abs(np.fft.rfft(audio[4000:] * np.hanning(len(audio) - 4000)))
    assert np.argmax(spectrum) * 16000 / (len(audio) - 4000) == pytest.approx(440, abs=3)
    assert np.flatnonzero(np.abs(audio) > 1e-4)[0] == pytest.approx(1600, abs=160)


def test_gain_of_a_layer_is_in_decibels(synthesizer: Synthesizer) -> None:
    loud = synthesizer.play(one_note(), [layer(16)], None, seconds=1.0)
    soft = synthesizer.play(one_note(), [layer(16, -6.0)], None, seconds=1.0)
    assert 20 * np.log10(np.std(soft) / np.std(loud)) == pytest.approx(-6, abs=0.1)


def test_layers_add_up(synthesizer: Synthesizer) -> None:
    parts = [synthesizer.play(one_note(), [layer(p)], None, seconds=1.0) for p in (16, 73)]
    both = synthesizer.play(one_note(), [layer(16), layer(73)], None, seconds=1.0)
    np.testing.assert_allclose(both, parts[0] + parts[1], atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filter_cutoff", -4800.0),
        ("vibrato_depth", 40.0),
        ("attack", 3000.0),
        ("decay", -2400.0),
        ("sustain", 200.0),
        ("release", 2400.0),
        ("fine_tune", 12.0),
    ],
)
def test_every_synthesis_parameter_is_heard(synthesizer: Synthesizer, field: str, value: float) -> None:
    notes = one_note(seconds=0.6)
    program = {"attack": 48, "sustain": 48, "decay": 24}.get(field, 0)
    plain = synthesizer.play(notes, [layer(program)], Synthesis(**NEUTRAL), seconds=1.5)
    moved = synthesizer.play(notes, [layer(program)], Synthesis(**{**NEUTRAL, field: value}), seconds=1.5)
    assert np.std(moved - plain) > 0.02 * np.std(plain)


def test_a_dark_filter_takes_away_treble(synthesizer: Synthesizer) -> None:
    def treble(cutoff: float) -> float:
        synthesis = Synthesis(**{**NEUTRAL, "filter_cutoff": cutoff})
        spectrum = np.abs(np.fft.rfft(synthesizer.play(one_note(), [layer(81)], synthesis, seconds=1.0))) ** 2
        return float(spectrum[3000:].sum() / spectrum.sum())

    assert treble(-4800.0) < 0.1 * treble(0.0)


def test_keys_that_the_font_leaves_silent_are_known(synthesizer: Synthesizer) -> None:
    # In TimGM6mb the alto saxophone's sample at E4 is empty and the oboe has no keys below C2.
    assert [synthesizer.reaches(layer(65), pitch) for pitch in (63, 64, 65)] == [True, False, True]
    assert [synthesizer.reaches(layer(68), pitch) for pitch in (35, 36)] == [False, True]
    assert all(synthesizer.reaches(layer(program), 62) for program in range(112))


def test_no_notes_are_silence(synthesizer: Synthesizer) -> None:
    audio = synthesizer.play(Notes.of([], [], [], []), [layer(0)], None, seconds=0.5)
    assert np.max(np.abs(audio)) < 1e-6


def test_unknown_font_and_preset_are_named(synthesizer: Synthesizer) -> None:
    with pytest.raises(TimbreflowError, match="Nowhere"):
        synthesizer.play(one_note(), [Layer("Nowhere", 0, 0, 0.0)], None, seconds=0.5)
    with pytest.raises(TimbreflowError, match="preset 3 in bank 77"):
        synthesizer.play(one_note(), [Layer(BUNDLED, 77, 3, 0.0)], None, seconds=0.5)


def test_a_file_that_is_no_soundfont_is_refused(tmp_path: object) -> None:
    path = bundled_soundfont().parent / "__init__.py"
    with pytest.raises(TimbreflowError, match="cannot be loaded"):
        Synthesizer({"text": path}, sample_rate=16000)


def test_missing_library_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fluidsynth", None)
    module._library.cache_clear()
    try:
        with pytest.raises(TimbreflowError, match="apt-get install libfluidsynth3.*brew install fluid-synth"):
            module.fluidsynth_version()
    finally:
        module._library.cache_clear()
