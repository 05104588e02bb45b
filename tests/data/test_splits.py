from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rendering.small_font import write_font
from timbreflow.data.splits import (
    LARGEST_GROUP,
    effect_split,
    held_out_programs,
    piece_split,
    program_groups,
    timbre_palette,
)
from timbreflow.errors import TimbreflowError
from timbreflow.rendering.config import SoundFontSpec, SplitFractions
from timbreflow.rendering.effect_settings import RANGES, all_settings
from timbreflow.rendering.programs import PITCHED_PROGRAMS
from timbreflow.rendering.soundfonts import BUNDLED, Preset, bundled_soundfont, list_all_presets

FRACTIONS = SplitFractions(validation_pieces=0.1, test_pieces=0.2, test_programs=0.15, test_effects=0.25)
PRESETS = [Preset(font, bank, program, "") for font in "ab" for bank in (0, 8, 128) for program in range(128)]
TRAIN_A = SoundFontSpec("a", "", "train")
APART = program_groups(())
"""Each program a group of its own, as where nothing is shared."""
GROUPS = [frozenset(range(n, n + 3)) for n in range(0, 45, 3)]
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
        assert 0 < len(held_out_programs(APART, fraction).intersection(members)) < len(members)


@given(small=st.floats(0, 0.999), large=st.floats(0, 0.999))
def test_a_greater_fraction_only_adds(small: float, large: float) -> None:
    small, large = sorted((small, large))
    for groups in (APART, GROUPS):
        assert held_out_programs(groups, small) <= held_out_programs(groups, large)
    for name in RANGES:
        for setting in all_settings(name):
            if effect_split(setting, small) == "test":
                assert effect_split(setting, large) == "test"


def test_fractions_of_programs_are_met_and_zero_holds_out_none() -> None:
    assert len(held_out_programs(APART, 0.25)) / len(PITCHED_PROGRAMS) == pytest.approx(0.25, abs=0.05)
    assert not held_out_programs(APART, 0)
    # Recorded once: released weights and frozen test sets were made with these.
    assert sorted(held_out_programs(APART, 0.125)) == [5, 8, 21, 31, 35, 42, 54, 63, 71, 76, 86, 90, 98, 110]


@pytest.mark.parametrize("name", sorted(RANGES))
def test_every_effect_has_settings_on_both_sides(name: str) -> None:
    sides = Counter(effect_split(setting, 0.25) for setting in all_settings(name))
    assert 1 <= sides["test"] <= 3
    assert sides["train"] >= 4


def test_what_cannot_be_split_is_refused() -> None:
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


@given(fraction=st.floats(0, 0.999))
def test_programs_that_share_samples_are_held_out_together(fraction: float) -> None:
    held = held_out_programs(GROUPS, fraction)
    assert all(group <= held or group.isdisjoint(held) for group in GROUPS)


def test_a_group_of_tens_of_programs_stays_in_training() -> None:
    large = frozenset(range(LARGEST_GROUP + 1))
    assert held_out_programs([large, frozenset([40])], 0.9).isdisjoint(large)


def test_test_programs_share_no_samples_with_training_ones(tmp_path: Path) -> None:
    sounds = [bytes([n, 1] * 50) for n in range(120)]
    # Programs 0 to 7 in pairs, 24 and 25 by one sample of two, the others apart; all under their own names and headers.
    shared = {1: 0, 3: 2, 5: 4, 7: 6}
    presets = {(0, program): [sounds[shared.get(program, program)]] for program in range(112)}
    presets[0, 25] = [sounds[25], sounds[24]]
    own = list_all_presets({"own": write_font(tmp_path / "own.sf2", presets)})
    groups = program_groups(preset for preset in own if preset.program in PITCHED_PROGRAMS)
    assert {group for group in groups if len(group) > 1} == {
        *map(frozenset, ((0, 1), (2, 3), (4, 5), (6, 7), (24, 25)))
    }
    specs = [SoundFontSpec("own", "", "train")]
    train, test = (timbre_palette(split, own, specs, FRACTIONS).presets for split in ("train", "test"))
    assert len(train) + len(test) == len(PITCHED_PROGRAMS)
    assert samples_of(train).isdisjoint(samples_of(test))
    # A test font loses the preset that plays a sample of training beside one of its own.
    other = {(0, 0): [b"new sound!"], (0, 9): [b"another new sound!", sounds[train[0].program]]}
    both = [*own, *list_all_presets({"other": write_font(tmp_path / "other.sf2", other)})]
    (kept,) = timbre_palette("test", both, [*specs, SoundFontSpec("other", "", "test")], FRACTIONS).presets
    assert (kept.soundfont, kept.program) == ("other", 0)


def test_the_default_run_has_test_programs_in_most_families_and_none_shares_samples() -> None:
    presets = list_all_presets({BUNDLED: bundled_soundfont()})
    specs = [SoundFontSpec(BUNDLED, "", "train")]
    train, test = (timbre_palette(split, presets, specs, FRACTIONS).presets for split in ("train", "test"))
    assert samples_of(train).isdisjoint(samples_of(test))
    assert len({preset.program // 8 for preset in test}) >= 12


def samples_of(presets: tuple[Preset, ...]) -> frozenset[str]:
    return frozenset[str]().union(*(preset.samples for preset in presets))


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
