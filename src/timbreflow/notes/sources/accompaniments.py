"""Accompaniments for chord progressions, played by the program MMA (Musical MIDI Accompaniment) of its Debian package.

MMA is run as a program of its own, from the folder where the package was unpacked; nothing is installed. The
progressions are the common ones of jazz, blues and popular songs, written here; the grooves are MMA's. A piece depends
on the seed, its number and the package alone, so the same package gives the same bytes.
"""

import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, read_json, stable_hash, write_json
from timbreflow.notes.pieces import ReadLimits, Reject

FINISHED = "generated.json"

_TIMEOUT = 60  # s, for one piece, which takes .3 s
_PROCESSES = 2
# Some libraries are drum machines; a piece that says next to nothing beside its drums is none either.
_LIMITS = ReadLimits(
    max_bytes=5_000_000,
    max_ticks=10_000_000,
    max_duration=600.0,
    max_notes=100_000,
    min_notes=32,
    max_seconds=20.0,
    max_memory=1_000_000_000,
)
_TEMPO = (72, 168)  # quarter notes a minute
_LENGTHS = (8, 12, 16)  # bars
_KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
# An introduction, a fill or an ending lasts a bar or two, then says nothing or repeats itself.
_NOT_ALONE = re.compile(r"Intro|INTRO|intro\d*$|End|END|end\d*$|Fill|FILL|fill\d*$|Break")
_DEFINITION = re.compile(r"^\s*DefGroove\s+([A-Za-z][\w-]*)", re.IGNORECASE | re.MULTILINE)

Chord = tuple[int, str]
"""Semitones above the tonic, and the chord's quality as MMA writes it."""

# Semitones above the tonic and quality, one chord a bar.
_MAJOR = {
    "ii-V-I": "2:m7 7:7 0:M7 0:6",
    "ii-V-I-VI": "2:m7 7:7 0:M7 9:7",
    "I-vi-IV-V": "0: 9:m 5: 7:7",
    "I-vi-ii-V": "0:M7 9:m7 2:m7 7:7",
    "I-V-vi-IV": "0: 7: 9:m 5:",
    "I-IV-I-V": "0: 5: 0: 7:7",
    "I-bVII-IV-I": "0: 10: 5: 0:",
    "I-III-IV-iv": "0: 4:7 5:M7 5:m6",
    "I-sharp-idim-ii-V": "0:M7 1:dim7 2:m7 7:9",
    "canon": "0: 7: 9:m 4:m 5: 0: 5: 7:sus4",
    "circle of fifths": "0:M7 5:M7 11:m7b5 4:m7 9:m7 2:m7 7:7 0:6",
    "dominant circle": "4:7 4:7 9:7 9:7 2:7 2:7 7:7 7:7",
    "12-bar blues": "0:7 0:7 0:7 0:7 5:7 5:7 0:7 0:7 7:7 5:7 0:7 7:7",
    "jazz blues": "0:7 5:7 0:7 0:7 5:7 6:dim7 0:7 9:7 2:m7 7:7 0:7 7:7",
}
_MINOR = {
    "ii-V-i": "2:m7b5 7:7 0:m7 0:m6",
    "i-iv-V-i": "0:m 5:m 7:7 0:m",
    "Andalusian": "0:m 10: 8: 7:7",
    "i-VI-III-VII": "0:m 8: 3: 10:",
    "i-VII-VI-VII": "0:m 10: 8:M7 10:",
    "i-IV": "0:m7 5:7 0:m7 5:7",
    "i-v-VI-iv": "0:m 7:m 8: 5:m",
    "minor circle of fifths": "0:m7 5:m7 10:7 3:M7 8:M7 2:m7b5 7:7 0:m6",
    "minor blues": "0:m7 0:m7 0:m7 0:m7 5:m7 5:m7 0:m7 0:m7 8:7 7:7 0:m7 7:7",
}


def _chords(progression: str) -> tuple[Chord, ...]:
    return tuple((int(step), quality) for step, _, quality in (one.partition(":") for one in progression.split()))


MAJOR = {name: _chords(text) for name, text in _MAJOR.items()}
MINOR = {name: _chords(text) for name, text in _MINOR.items()}


@dataclass(frozen=True)
class Accompaniments:
    """What `generate` left in its folder.

    Attributes:
        paths: the MIDI files, sorted.
        skipped: grooves that MMA could not play, or that are drums alone, and so have no file.
    """

    paths: tuple[Path, ...]
    skipped: int


@dataclass(frozen=True)
class Groove:
    """One style of MMA's library.

    Attributes:
        library: the file that defines it, below `lib`, without its ending: `stdlib/swing`.
        name: such as `SwingPlus`.
    """

    library: str
    name: str


def grooves(mma_folder: Path) -> list[Groove]:
    """The grooves of an unpacked package that can carry a whole piece, sorted; introductions and fills are left out.

    Args:
        mma_folder: where the Debian package `mma` was unpacked.

    Raises:
        TimbreflowError: the package is not there, or has no library.
    """
    library = _home(mma_folder) / "lib"
    found = set()
    for file in library.rglob("*.mma"):
        text = file.read_text(encoding="utf-8", errors="replace")
        name = file.relative_to(library).with_suffix("").as_posix()
        found |= {Groove(name, one) for one in _DEFINITION.findall(text) if not _NOT_ALONE.search(one)}
    if not found:
        raise TimbreflowError(f"{library} defines no groove; delete {mma_folder} and fetch mma again.")
    return sorted(found, key=lambda groove: (groove.library, groove.name))


def song(groove: Groove, *, number: int, seed: int) -> str:
    """An MMA song: key, tempo, 8 to 16 bars of chords, one groove.

    Args:
        groove: that plays it.
        number: of the piece; the key goes round with it, so that all are used alike.
        seed: of the draws, and of MMA's own random numbers.
    """
    draws = random.Random(stable_hash("accompaniment", seed, number))
    tonic = number % 12
    pool = MINOR if draws.random() < 0.4 else MAJOR
    n_bars = draws.choice(_LENGTHS)
    chords: list[Chord] = []
    while len(chords) < n_bars - 1:
        part = pool[draws.choice(sorted(pool))]
        chords += part * (2 if len(part) == 4 and draws.random() < 0.5 else 1)
    home = (0, "m" if pool is MINOR else "")
    lines = [f"RndSeed {draws.randrange(2**31)}", f"Tempo {draws.randint(*_TEMPO)}"]
    lines += [f"Use {groove.library}", f"Groove {groove.name}"]
    for bar, (step, quality) in enumerate([*chords[: n_bars - 1], home], start=1):
        lines.append(f"{bar} {_KEYS[(tonic + step) % 12]}{quality}")
    return "\n".join(lines) + "\n"


def generate(mma_folder: Path, out_folder: Path, *, count: int, seed: int) -> Accompaniments:
    """Write MIDI files of accompaniments; complete, or to be gone on with by the next call.

    Finished files wait in a hidden folder beside `mma_folder`'s contents, which becomes `out_folder` when all are
    there. Grooves are taken from all library files in turn, each once; those that MMA cannot play, or
    plays on drums alone, are skipped.

    Args:
        mma_folder: where the Debian package `mma` was unpacked.
        out_folder: for the files, on the same file system; left as it is where it holds what these arguments ask for.
        count: of files; fewer where the library has fewer grooves.
        seed: of everything that is drawn.

    Raises:
        TimbreflowError: `count` is not positive, the package is not there, or MMA cannot play any groove.
    """
    if count < 1:
        raise TimbreflowError(f"{count} accompaniments cannot be generated; ask for at least one.")
    asked = {"count": count, "seed": seed}
    out = Path(out_folder)
    if (out / FINISHED).is_file():
        state = read_json(out / FINISHED)
        if state.get("asked") == asked:
            return Accompaniments(tuple(sorted(out.glob("*.mid"))), int(state["skipped"]))
        raise TimbreflowError(f"{out} holds accompaniments of other settings; delete it and fetch mma again.")
    candidates = enumerate(_in_turn(grooves(mma_folder), seed))
    work = Path(mma_folder) / f".generating-{count}-{seed}"
    work.mkdir(exist_ok=True)
    made: list[Path] = []
    skipped = 0
    with ThreadPoolExecutor(_PROCESSES) as pool:
        while len(made) < count and (batch := list(islice(candidates, count - len(made)))):
            for path in pool.map(lambda job: _play(Path(mma_folder), work, job[1], job[0], seed), batch):
                made += [path] if path is not None else []
                skipped += path is None
    if not made:
        raise TimbreflowError(f"MMA in {mma_folder} played none of its grooves; delete the folder and fetch mma again.")
    for leftover in set(work.iterdir()) - set(made):  # of a run that was killed while it wrote
        leftover.unlink()
    write_json(work / FINISHED, {"asked": asked, "skipped": skipped})
    out.parent.mkdir(parents=True, exist_ok=True)
    os.replace(work, out)
    return Accompaniments(tuple(sorted(out / path.name for path in made)), skipped)


def _home(mma_folder: Path) -> Path:
    home = Path(mma_folder) / "usr/share/mma"
    if not (home / "lib").is_dir() or not _program(mma_folder).is_file():
        raise TimbreflowError(f"{mma_folder} does not hold the program mma; delete it and fetch mma again.")
    return home


def _program(mma_folder: Path) -> Path:
    return Path(mma_folder) / "usr/bin/mma"


def _in_turn(every: list[Groove], seed: int) -> Iterator[Groove]:
    """All grooves: one of each library file, then a second of each, and so on; in drawn order."""
    files: dict[str, list[Groove]] = {}
    for groove in sorted(every, key=lambda groove: stable_hash("groove", seed, groove.library, groove.name)):
        files.setdefault(groove.library, []).append(groove)
    for turn in range(max(map(len, files.values()))):
        yield from (group[turn] for group in files.values() if turn < len(group))


def _play(mma_folder: Path, work: Path, groove: Groove, number: int, seed: int) -> Path | None:
    """Have MMA play one piece into `work`; None where that gives no music beside drums.

    A file that is there already is kept.
    """
    from timbreflow.notes.readers.midi import read_midi  # numba takes time that no command line should wait for

    path = work / f"{number:04d}-{groove.library.replace('/', '-')}-{groove.name}.mid"
    if path.exists():
        return path
    # MMA reads settings from the home folder and the environment, and would look for itself in /usr/share first.
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "song.mma"), Path(folder, "song.mid")
        source.write_text(song(groove, number=number, seed=seed), encoding="utf-8")
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": folder,
            "MMA_HOME": str(_home(mma_folder).resolve()),
            "PYTHONHASHSEED": "0",
            "PYTHONUTF8": "1",
        }
        # -S: MMA needs none of the installed packages, and looking for them is a third of its time.
        command = [sys.executable, "-S", str(_program(mma_folder).resolve()), "-f", "song.mid", "song.mma"]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, timeout=_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        data = target.read_bytes() if done.returncode == 0 and target.is_file() else b""
    try:
        read_midi(data, _LIMITS)
    except Reject:
        return None
    with atomic_file(path) as part:
        part.write_bytes(data)
    return path
