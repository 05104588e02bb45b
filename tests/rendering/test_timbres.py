import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.rendering.config import TimbreConfig
from timbreflow.rendering.effect_settings import RANGES, all_settings
from timbreflow.rendering.programs import PITCHED_PROGRAMS, class_id, program_class
from timbreflow.rendering.soundfonts import Preset
from timbreflow.rendering.timbres import GENERATORS, Layer, Palette, Timbre, draw_timbre

ALWAYS = TimbreConfig(
    layer_probability=0.5,
    max_layers=3,
    synthesis_probability=0.5,
    equalizer_probability=0.5,
    effect_counts=(0.25, 0.25, 0.25, 0.25),
)
PALETTE = Palette(
    tuple(Preset("font", bank, program, "") for bank in (0, 8) for program in PITCHED_PROGRAMS[::2]),
    frozenset(setting for name in RANGES for setting in all_settings(name)[::2]),
)


def drawn(seed: int, source_program: int = -1, config: TimbreConfig = ALWAYS) -> Timbre:
    return draw_timbre(np.random.default_rng(seed), PALETTE, config, source_program=source_program)


@settings(deadline=None)
@given(seed=st.integers(0, 2**63), source=st.integers(-1, 127))
def test_a_timbre_keeps_to_its_palette_class_and_ranges(seed: int, source: int) -> None:
    timbre = drawn(seed, source)
    presets = {(preset.soundfont, preset.bank, preset.program) for preset in PALETTE.presets}
    assert all((layer.soundfont, layer.bank, layer.program) in presets for layer in timbre.layers)
    assert len({layer.program for layer in timbre.layers}) == len(timbre.layers) <= 3
    assert timbre.layers[0].gain_db == 0
    assert all(-9 <= layer.gain_db <= 0 for layer in timbre.layers)
    if source in PITCHED_PROGRAMS:
        assert timbre.layers[0].program in program_class(source)
    assert all(effect.setting in PALETTE.effect_settings for effect in timbre.effects)
    assert len({effect.name for effect in timbre.effects}) == len(timbre.effects) <= 3
    if timbre.synthesis is not None:
        for name, (_, low, high) in GENERATORS.items():
            assert min(low, 0) <= getattr(timbre.synthesis, name) <= max(high, 0)


@settings(deadline=None)
@given(seed=st.integers(0, 2**63))
def test_json_round_trip_keeps_everything(seed: int) -> None:
    timbre = drawn(seed)
    again = Timbre.from_text(timbre.to_text())
    assert again == timbre
    assert again.timbre_id == timbre.timbre_id
    assert len(timbre.timbre_id) == 16


def test_any_change_changes_the_id() -> None:
    timbre = drawn(3)
    louder = dataclasses.replace(timbre, layers=(*timbre.layers, Layer("font", 0, 3, -1.0)))
    dry = dataclasses.replace(timbre, effects=(), synthesis=None, equalizer=None)
    assert len({timbre.timbre_id, louder.timbre_id, dry.timbre_id}) == 3


def test_the_id_is_the_same_in_another_process() -> None:
    script = (
        "from timbreflow.rendering.timbres import Layer, Timbre\n"
        "print(Timbre((Layer('font', 0, 40, 0.0),), None, (), None).timbre_id)"
    )
    command = [sys.executable, "-c", script]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}).stdout
    assert other.strip() == Timbre((Layer("font", 0, 40, 0.0),), None, (), None).timbre_id


def test_probabilities_are_obeyed() -> None:
    never = TimbreConfig(0, 3, 0, 0, (1, 0, 0, 0))
    for seed in range(50):
        plain = drawn(seed, config=never)
        assert (len(plain.layers), plain.synthesis, plain.effects, plain.equalizer) == (1, None, (), None)
    paper = TimbreConfig(0.3, 3, 0.5, 0.3, (0.35, 0.4, 0.2, 0.05))
    timbres = [drawn(seed, config=paper) for seed in range(2000)]
    counts = np.bincount([len(timbre.effects) for timbre in timbres], minlength=4) / 2000
    np.testing.assert_allclose(counts, paper.effect_counts, atol=0.04)
    assert np.mean([len(timbre.layers) > 1 for timbre in timbres]) == pytest.approx(0.3, abs=0.04)
    assert {len(timbre.layers) for timbre in timbres} == {1, 2, 3}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"layers": [{"font": 1}], "effects": []}'])
def test_a_text_that_is_no_timbre_is_refused(text: str) -> None:
    with pytest.raises(TimbreflowError, match="not a timbre"):
        Timbre.from_text(text)


def test_classes_are_those_of_the_paper() -> None:
    ids = {program: class_id(program) for program in (0, 31, 32, 39, 40, 79, 80, 127)}
    assert ids == {
        0: "0-31",
        31: "0-31",
        32: "32-39",
        39: "32-39",
        40: "40-79",
        79: "40-79",
        80: "80-87",
        127: "120-127",
    }
    with pytest.raises(ValueError, match="0..127"):
        program_class(-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effect_counts": (0.5, 0.1, 0.1, 0.1)}, "add up to 1"),
        ({"layer_probability": 1.5}, r"\[0, 1\]"),
        ({"max_layers": 0}, "max_layers"),
    ],
)
def test_wrong_probabilities_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ALWAYS, **change)  # type: ignore[arg-type]
