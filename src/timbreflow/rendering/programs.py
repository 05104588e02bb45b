"""General MIDI programs: which are pitched, and the classes within which a program may be redrawn."""

UNPITCHED = frozenset({47, 55})
"""Programs below 112 without a stable pitch: timpani (whose fonts bend the pitch) and orchestra hit (a chord)."""

PITCHED_PROGRAMS: tuple[int, ...] = tuple(program for program in range(112) if program not in UNPITCHED)
"""Programs (counted from 0) that a timbre may use. 112 to 127 are percussion and sound effects."""


def family(program: int) -> range:
    """General MIDI's group of eight that holds a program."""
    first = program // 8 * 8
    return range(first, first + 8)


def program_class(program: int) -> range:
    """Programs that may stand in for one another in the data of Cífka et al. (2021).

    0-31 (pianos, mallets, organs, guitars) among themselves, 40-79 (strings to pipes) among themselves, others within
    their group of eight.
    """
    if not 0 <= program <= 127:
        raise ValueError(f"program must lie in 0..127, not {program}")
    for shared in (range(32), range(40, 80)):
        if program in shared:
            return shared
    return family(program)


def class_id(program: int) -> str:
    """Name of a program's class, such as `0-31`."""
    members = program_class(program)
    return f"{members.start}-{members.stop - 1}"
