"""Which pieces, programs and effect settings are kept away from training: pure functions of stable hashes.

Nothing depends on the order of files or on what else is there: a piece that is added changes no other piece's split.
Programs and effect settings are few, so they are stratified: within each group of eight programs (or each effect) the
members are ranked by hash and the first ones are held out, which spreads them over the families. A greater fraction
only adds to what is held out. Programs that play the same samples are one group, held out or trained on together.
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


LARGEST_GROUP = 8
"""Programs. Synthetic programs of small fonts share a few waves: tens of them are one group, too many to hold out."""


def piece_split(piece_id: str, fractions: SplitFractions) -> str:
    """`train`, `validation` or `test`, by the hash of the piece's id alone."""
    position = _unit("piece", piece_id)
    if position < fractions.test_pieces:
        return "test"
    # Counted from the other end, so that a new test fraction does not move the validation pieces.
    return "validation" if position >= 1 - fractions.validation_pieces else "train"


def program_groups(presets: Iterable[Preset]) -> list[frozenset[int]]:
    """The pitched programs, in groups that share no sample data with each other.

    Args:
        presets: melodic and pitched ones, with their samples.
    """
    groups = {program: frozenset([program]) for program in PITCHED_PROGRAMS}
    players: dict[str, int] = {}
    for preset in presets:
        for sample in preset.samples:
            merged = groups[preset.program] | groups[players.setdefault(sample, preset.program)]
            groups.update(dict.fromkeys(merged, merged))
    return sorted(set(groups.values()), key=min)


def held_out_programs(groups: Iterable[frozenset[int]], fraction: float) -> frozenset[int]:
    """The programs that only test plays: whole groups, about `fraction` of each family, at least one if any.

    A group belongs to the family of its first program. Small groups are taken first, so that little more than the
    fraction is taken; one of more than `LARGEST_GROUP` programs stays in training.

    Args:
        groups: of `program_groups`.
        fraction: in [0, 1).
    """
    held: set[int] = set()
    for first in range(0, 112, 8):
        members = {member for member in family(first) if member in PITCHED_PROGRAMS}
        count = _count("program", sorted(members), fraction)
        own = [group for group in groups if min(group) in members and len(group) <= LARGEST_GROUP]
        taken: set[int] = set()
        for group in sorted(own, key=lambda group: (len(group), stable_hash("program", min(group)))):
            if len(taken & members) >= count or len((taken | group) & members) == len(members):
                break
            taken |= group
        held |= taken
    return frozenset(held)


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
    settings, with all presets of the test fonts that play no sample of training; where there is no test font, the
    held-out programs of the others.

    Args:
        split: train, validation, test or test_seen.
        presets: of all fonts; those without samples count as sharing none.
        soundfonts: their roles.
        fractions: held-out parts.

    Raises:
        TimbreflowError: nothing is left for the split.
    """
    side = TIMBRES_OF[split]
    fonts = {role: {font.name for font in soundfonts if font.role == role} for role in ("train", "test")}
    usable = [p for p in presets if p.bank in MELODIC_BANKS and p.program in PITCHED_PROGRAMS]
    known = [preset for preset in usable if preset.soundfont in fonts["train"]]
    held = held_out_programs(program_groups(known), fractions.test_programs)
    trained = [preset for preset in known if preset.program not in held]
    if side == "train":
        kept = trained
    elif fonts["test"]:
        heard = frozenset[str]().union(*(preset.samples for preset in trained))
        kept = [p for p in usable if p.soundfont in fonts["test"] and p.samples.isdisjoint(heard)]
    else:
        kept = [preset for preset in known if preset.program in held]
    if not kept:
        raise TimbreflowError(
            f"No program of {', '.join(sorted(fonts[side] or fonts['train']))} is left for the split {split}; raise "
            "test_programs or name a SoundFont with role test."
        )
    settings = [setting for name in RANGES for setting in all_settings(name)]
    return Palette(tuple(kept), frozenset(s for s in settings if effect_split(s, fractions.test_effects) == side))


def _unit(*parts: object) -> float:
    return stable_hash(*parts) / 2**64


@lru_cache(maxsize=1024)
def _held_out(kind: str, members: tuple[str, ...], fraction: float) -> frozenset[str]:
    """The first members by hash."""
    ranked = sorted(members, key=lambda member: stable_hash(kind, member))
    return frozenset(ranked[: _count(kind, members, fraction)])


def _count(kind: str, members: Sequence[int] | Sequence[str], fraction: float) -> int:
    """round(fraction * n) on average over groups, and neither none nor all of them; 0 for a fraction of 0."""
    if fraction <= 0:
        return 0
    wanted = len(members) * fraction
    whole = int(wanted)
    count = whole + (_unit(kind, "rest", members[0]) < wanted - whole)
    return max(1, min(count, len(members) - 1))
