from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timbreflow.data.splits import effect_split, piece_split, program_split, timbre_palette
from timbreflow.errors import TimbreflowError
from timbreflow.rendering.config import SoundFontSpec, SplitFractions
from timbreflow.rendering.effect_settings import RANGES, all_settings
from timbreflow.rendering.programs import PITCHED_PROGRAMS
from timbreflow.rendering.soundfonts import Preset

FRACTIONS = SplitFractions(validation_pieces=0.1, test_pieces=0.2, test_programs=0.15, test_effects=0.25)
PRESETS = [Preset(font, bank, program, "") for font in "ab" for bank in (0, 8, 128) for program in range(128)]
TRAIN_A = SoundFontSpec("a", "", "train")
fractions_strategy = st.tuples(*[st.floats(0, 0.49)] * 2, *[st.floats(0, 0.99)] * 2).map(lambda f: SplitFractions(*f))


@given(piece=st.text(min_size=1), fractions=fractions_strategy, grown=st.floats(0, 0.5))
def test_a_test_piece_stays_one_when_the_fraction_grows(piece: str, fractions: SplitFractions, grown: float) -> None:
    split = piece_split(piece, fractions)
    assert split == piece_split(piece, fractions)
    assert split in {"train", "validation", "test"}
    more = SplitFractions(0.0, min(0.99, fractions.test_pieces + grown), 0.0, 0.0)
    if split == "test":
        assert piece_split(piece, more) == "test"


def test_fractions_of_pieces_are_met() -> None:
    counts = Counter(piece_split(f"{number:016x}", FRACTIONS) for number in range(10000))
    assert counts["test"] / 10000 == pytest.approx(0.2, abs=0.015)
    assert counts["validation"] / 10000 == pytest.approx(0.1, abs=0.015)


def test_pieces_do_not_move_between_versions() -> None:
    # Recorded once: a change here would leak yesterday"s test pieces into tomorrow"s training.
    assert [piece_split(f"{n:016x}", FRACTIONS) for n in range(12)] == RECORDED_PIECES


@given(fraction=st.floats(0.001, 0.999))
def test_every_family_has_programs_on_both_sides(fraction: float) -> None:
    for first in range(0, 112, 8):
        members = [program for program in range(first, first + 8) if program in PITCHED_PROGRAMS]
        assert {program_split(program, fraction) for program in members} == {"train", "test"}


@given(small=st.floats(0, 0.999), large=st.floats(0, 0.999))
def test_a_greater_fraction_only_adds(small: float, large: float) -> None:
    small, large = sorted((small, large))
    for program in PITCHED_PROGRAMS:
        if program_split(program, small) == "test":
            assert program_split(program, large) == "test"
    for name in RANGES:
        for setting in all_settings(name):
            if effect_split(setting, small) == "test":
                assert effect_split(setting, large) == "test"


def test_fractions_of_programs_are_met_and_zero_holds_out_none() -> None:
    held = sum(program_split(program, 0.25) == "test" for program in PITCHED_PROGRAMS)
    assert held / len(PITCHED_PROGRAMS) == pytest.approx(0.25, abs=0.05)
    assert all(program_split(program, 0) == "train" for program in PITCHED_PROGRAMS)


@pytest.mark.parametrize("name", sorted(RANGES))
def test_every_effect_has_settings_on_both_sides(name: str) -> None:
    sides = Counter(effect_split(setting, 0.25) for setting in all_settings(name))
    assert 1 <= sides["test"] <= 3
    assert sides["train"] >= 4


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="not pitched"):
        program_split(120, 0.2)
    with pytest.raises(ValueError, match="not a setting"):
        effect_split("flanger/rate=1", 0.2)


@pytest.mark.parametrize("with_test_font", [False, True])
def test_palettes_of_training_and_test_share_nothing(with_test_font: bool) -> None:
    fonts = [TRAIN_A, SoundFontSpec("b", "", "test" if with_test_font else "train")]
    palettes = {
        split: timbre_palette(split, PRESETS, fonts, FRACTIONS)
        for split in ("train", "validation", "test", "test_seen")
    }
    assert palettes["train"] == palettes["validation"] == palettes["test_seen"]
    seen, unseen = palettes["train"], palettes["test"]
    assert seen.effect_settings.isdisjoint(unseen.effect_settings)
    assert seen.effect_settings | unseen.effect_settings == {s for name in RANGES for s in all_settings(name)}
    if with_test_font:
        assert {preset.soundfont for preset in unseen.presets} == {"b"}
        assert {preset.soundfont for preset in seen.presets} == {"a"}
        assert {preset.program for preset in unseen.presets} == set(PITCHED_PROGRAMS)
    else:
        assert {p.program for p in seen.presets}.isdisjoint(p.program for p in unseen.presets)
    for palette in palettes.values():
        assert {preset.bank for preset in palette.presets} == {0, 8}
        assert {preset.program for preset in palette.presets} <= set(PITCHED_PROGRAMS)


def test_a_split_without_programs_says_what_to_change() -> None:
    none_held_out = SplitFractions(0.1, 0.1, 0.0, 0.0)
    with pytest.raises(TimbreflowError, match="split test.*test_programs"):
        timbre_palette("test", PRESETS, [TRAIN_A], none_held_out)


RECORDED_PIECES: list[str] = [
    "train",
    "train",
    "validation",
    "train",
    "train",
    "test",
    "train",
    "validation",
    "train",
    "train",
    "train",
    "train",
]
