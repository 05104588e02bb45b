"""Which pieces, programs and effect settings are kept away from training: pure functions of stable hashes.

Nothing depends on the order of files or on what else is there: a piece that is added changes no other piece's split.
Programs and effect settings are few, so they are stratified: within each group of eight programs (or each effect) the
members are ranked by hash and the first ones are held out, which spreads them over the families. A greater fraction
only adds to what is held out.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash
from timbreflow.rendering.config import SoundFontSpec, SplitFractions
from timbreflow.rendering.effect_settings import RANGES, all_settings
from timbreflow.rendering.programs import PITCHED_PROGRAMS, family
from timbreflow.rendering.soundfonts import MELODIC_BANKS, Preset
from timbreflow.rendering.timbres import Palette

PIECES_OF = {"train": "train", "validation": "validation", "test": "test", "test_seen": "test"}
"""Pieces that each split of clips is made from."""

TIMBRES_OF = {"train": "train", "validation": "train", "test": "test", "test_seen": "train"}
"""Side of the programs, fonts and effect settings that each split of clips is made from."""


def piece_split(piece_id: str, fractions: SplitFractions) -> str:
    """`train`, `validation` or `test`, by the hash of the piece's id alone."""
    position = _unit("piece", piece_id)
    if position < fractions.test_pieces:
        return "test"
    # Counted from the other end, so that a new test fraction does not move the validation pieces.
    return "validation" if position >= 1 - fractions.validation_pieces else "train"


def program_split(program: int, fraction: float) -> str:
    """`train` or `test` for a pitched program; about `fraction` of each group of eight is test, at least one if any.

    Raises:
        ValueError: the program is not one that timbres use.
    """
    if program not in PITCHED_PROGRAMS:
        raise ValueError(f"program {program} is not pitched")
    members = tuple(member for member in family(program) if member in PITCHED_PROGRAMS)
    return "test" if program in _held_out("program", members, fraction) else "train"


def effect_split(setting: str, fraction: float) -> str:
    """`train` or `test` for an effect setting; about `fraction` of each effect's settings is test, at least one if any.

    Raises:
        ValueError: there is no such setting.
    """
    name = setting.partition("/")[0]
    settings = tuple(all_settings(name)) if name in RANGES else ()
    if setting not in settings:
        raise ValueError(f"{setting} is not a setting of an effect")
    return "test" if setting in _held_out("effect", settings, fraction) else "train"


def timbre_palette(
    split: str, presets: Iterable[Preset], soundfonts: Sequence[SoundFontSpec], fractions: SplitFractions
) -> Palette:
    """What the timbres of a split are made of.

    train, validation and test_seen: train programs of train fonts, and train effect settings. test: held-out effect
    settings, with all programs of the test fonts; where there is no test font, the held-out programs of the others.

    Args:
        split: train, validation, test or test_seen.
        presets: of all fonts.
        soundfonts: their roles.
        fractions: held-out parts.

    Raises:
        TimbreflowError: nothing is left for the split.
    """
    side = TIMBRES_OF[split]
    test_fonts = {font.name for font in soundfonts if font.role == "test"}
    whole_fonts = test_fonts if side == "test" else frozenset()
    fonts = whole_fonts or {font.name for font in soundfonts if font.role == "train"}
    kept = tuple(
        preset
        for preset in presets
        if preset.soundfont in fonts
        and preset.bank in MELODIC_BANKS
        and preset.program in PITCHED_PROGRAMS
        and (whole_fonts or program_split(preset.program, fractions.test_programs) == side)
    )
    if not kept:
        raise TimbreflowError(
            f"No program of {', '.join(sorted(fonts))} is left for the split {split}; raise test_programs or name a "
            "SoundFont with role test."
        )
    settings = [setting for name in RANGES for setting in all_settings(name)]
    return Palette(kept, frozenset(s for s in settings if effect_split(s, fractions.test_effects) == side))


def _unit(*parts: object) -> float:
    return stable_hash(*parts) / 2**64


@lru_cache(maxsize=1024)
def _held_out(kind: str, members: tuple[int | str, ...], fraction: float) -> frozenset[int | str]:
    """The first members by hash: round(fraction * n) on average over groups, and neither none nor all of them."""
    if fraction <= 0:
        return frozenset()
    wanted = len(members) * fraction
    whole = int(wanted)
    count = whole + (_unit(kind, "rest", members[0]) < wanted - whole)
    ranked = sorted(members, key=lambda member: stable_hash(kind, member))
    return frozenset(ranked[: max(1, min(count, len(members) - 1))])
