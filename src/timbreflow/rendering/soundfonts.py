"""SoundFont files: where they are, that they are the right ones, which presets they hold, and what those play."""

import hashlib
import importlib.util
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, sha256_file
from timbreflow.rendering.config import SoundFontSpec

BUNDLED = "TimGM6mb"
"""General MIDI font of 6 MB that the wheel of pretty_midi ships."""

MELODIC_BANKS = range(64)
"""Banks whose presets follow the General MIDI programs; GS and XG keep effects and drums above."""

_PRESET_HEADER = struct.Struct("<20sHHHIII")
_INSTRUMENT_HEADER = struct.Struct("<20sH")
_SAMPLE_HEADER = struct.Struct("<20sIIIIIBbHH")
_BAG = struct.Struct("<HH")
_GENERATOR = struct.Struct("<HH")
_INSTRUMENT, _SAMPLE = 41, 53
"""Generators that name an instrument, in a preset, and a sample, in an instrument."""
_COMPRESSED = 0x10
"""Type bit of a sample in Vorbis (.sf3): its bounds are bytes."""
_OVERLAP = 8
"""Fonts share the sound of a few samples; one whose samples are more than so many times its sound is a trap."""


@dataclass(frozen=True)
class Preset:
    """One instrument of a SoundFont.

    Args:
        soundfont: name of the font.
        bank: MIDI bank.
        program: MIDI program, from 0.
        name: as the font calls it.
        samples: sha256 of the data of each sample that it plays; empty where they were not read.
    """

    soundfont: str
    bank: int
    program: int
    name: str
    samples: frozenset[str] = frozenset()


def find_soundfont(spec: SoundFontSpec, folder: Path) -> Path:
    """Path of a SoundFont whose content is what `spec` says.

    Args:
        spec: name and sha256.
        folder: data/soundfonts; TimGM6mb is taken from pretty_midi when it is not there.

    Raises:
        TimbreflowError: the font is missing, or is another file than the one named.
    """
    candidates = [folder / f"{spec.name}{suffix}" for suffix in (".sf2", ".sf3")]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None and spec.name == BUNDLED:
        path = bundled_soundfont()
    if path is None:
        raise TimbreflowError(
            f"SoundFont {candidates[0]} (or .sf3, sha256 {spec.sha256}) is missing; "
            f"run `timbreflow corpus fetch {spec.name}` or copy it there."
        )
    found = sha256_file(path)
    if found != spec.sha256:
        raise TimbreflowError(
            f"SoundFont {path} has sha256 {found} instead of {spec.sha256}; "
            f"run `timbreflow corpus fetch {spec.name}` for that file, or correct the expected sha256."
        )
    return path


def find_soundfonts(specs: Iterable[SoundFontSpec], folder: Path) -> dict[str, Path]:
    """Path of each SoundFont by its name; see `find_soundfont`."""
    return {spec.name: find_soundfont(spec, folder) for spec in specs}


def install_soundfont(source: Path, folder: Path) -> SoundFontSpec:
    """Copy a SoundFont to where `find_soundfont` looks.

    Args:
        source: .sf2 or .sf3 file.
        folder: data/soundfonts.

    Returns:
        Its specification, as a font to train on.
    """
    place = folder / source.name
    if not (place.is_file() and sha256_file(place) == sha256_file(source)):
        with atomic_file(place) as temporary:
            shutil.copyfile(source, temporary)
    return SoundFontSpec(name=source.stem, sha256=sha256_file(place), role="train")


def bundled_soundfont() -> Path:
    """Path of pretty_midi's TimGM6mb.sf2, found without importing pretty_midi.

    Raises:
        TimbreflowError: pretty_midi is not installed.
    """
    package = importlib.util.find_spec("pretty_midi")
    if package is None or package.origin is None:
        raise TimbreflowError("The package pretty_midi, which ships TimGM6mb.sf2, is missing; run `make setup`.")
    return Path(package.origin).parent / f"{BUNDLED}.sf2"


def list_presets(path: Path, soundfont: str) -> list[Preset]:
    """All presets of a SoundFont, sorted by bank and program; read from its preset headers alone.

    Args:
        path: .sf2 or .sf3 file.
        soundfont: name that the presets carry.

    Raises:
        TimbreflowError: the file is not a SoundFont.
    """
    with _reading(path) as file:
        headers = _read(file, _places(file), b"phdr", _PRESET_HEADER)
    # The last header is the terminator that the format asks for.
    presets = [
        Preset(soundfont, bank, program, raw.split(b"\0")[0].decode("latin-1").strip())
        for raw, program, bank, *_ in headers[:-1]
    ]
    return sorted(presets, key=lambda preset: (preset.bank, preset.program))


def list_all_presets(soundfonts: Mapping[str, Path]) -> list[Preset]:
    """Presets of several SoundFonts, given by name and path, with the samples that they play; see `list_presets`."""
    played = {name: played_samples(path) for name, path in soundfonts.items()}
    return [
        replace(preset, samples=played[name][preset.bank, preset.program])
        for name, path in soundfonts.items()
        for preset in list_presets(path, name)
    ]


def played_samples(path: Path) -> dict[tuple[int, int], frozenset[str]]:
    """What the presets of a SoundFont play.

    Names tell nothing: fonts share recordings under other names. Data is compared as it is stored, so that the same
    recording in an .sf2 and, compressed, in an .sf3 file counts as two.

    Args:
        path: .sf2 or .sf3 file.

    Returns:
        (bank, program) to the sha256 of each sample's data.

    Raises:
        TimbreflowError: the file is not a SoundFont.
    """
    with _reading(path) as file:
        places = _places(file)
        presets = _read(file, places, b"phdr", _PRESET_HEADER)
        instruments = _read(file, places, b"inst", _INSTRUMENT_HEADER)
        of_preset = _named([row[3] for row in presets], _zones(file, places, b"p"), _INSTRUMENT)
        of_instrument = _named([row[1] for row in instruments], _zones(file, places, b"i"), _SAMPLE)
        samples = _read(file, places, b"shdr", _SAMPLE_HEADER)
        start, size = places[b"smpl"]
        if start + size > file.seek(0, 2):
            raise ValueError("its sound is cut short")
        hashes, left = {}, _OVERLAP * size
        for number in sorted(set().union(*of_instrument)):
            _, first, end, *_, kind = samples[number]
            width = 1 if kind & _COMPRESSED else 2  # bytes
            length = min(width * max(end - first, 0), size)
            left -= length
            if left < 0:
                raise ValueError("its samples are more than its sound")
            file.seek(start + width * first)
            hashes[number] = hashlib.sha256(file.read(length)).hexdigest()
        found: dict[tuple[int, int], frozenset[str]] = {}
        for (_, program, bank, *_), used in zip(presets[:-1], of_preset, strict=True):
            heard = {hashes[number] for instrument in used for number in of_instrument[instrument]}
            found[bank, program] = found.get((bank, program), frozenset()) | heard
    return found


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except (OSError, struct.error, ValueError, LookupError) as error:
        raise TimbreflowError(f"{path} is not a SoundFont ({error}); copy the right file there.") from error


def _places(file: BinaryIO) -> dict[bytes, tuple[int, int]]:
    """Offset and size of the chunks of sound and presets."""
    form, _, kind = struct.unpack("<4sI4s", file.read(12))
    if form != b"RIFF" or kind != b"sfbk":
        raise ValueError("no RIFF sfbk header")
    places = {}
    for name, size in _chunks(file):
        start = file.tell()
        if name == b"LIST" and file.read(4) in {b"sdta", b"pdta"}:
            for inner, length in _chunks(file):
                places[inner] = file.tell(), length
                _skip(file, length)
                if file.tell() >= start + size:
                    break
        file.seek(start)
        _skip(file, size)
    return places


def _read(
    file: BinaryIO, places: Mapping[bytes, tuple[int, int]], name: bytes, row: struct.Struct
) -> list[tuple[Any, ...]]:
    """Rows of a table, the terminator included."""
    offset, size = places.get(name, (0, 0))
    if size < row.size or size % row.size or offset + size > file.seek(0, 2):
        raise ValueError(f"no usable chunk {name.decode()}")
    file.seek(offset)
    return list(row.iter_unpack(file.read(size)))


def _zones(file: BinaryIO, places: Mapping[bytes, tuple[int, int]], kind: bytes) -> list[list[tuple[Any, ...]]]:
    """Generators of each zone of the presets (kind p) or the instruments (i)."""
    bounds = [row[0] for row in _read(file, places, kind + b"bag", _BAG)]
    generators = _read(file, places, kind + b"gen", _GENERATOR)
    if bounds != sorted(bounds):
        raise ValueError("zones out of order")
    return [generators[first:end] for first, end in pairwise(bounds)]


def _named(bounds: Sequence[int], zones: Sequence[Sequence[tuple[Any, ...]]], generator: int) -> list[set[int]]:
    """What each preset or instrument names by a generator, from the number of its first zone."""
    return [
        {amount for zone in zones[first:end] for kind, amount in zone if kind == generator}
        for first, end in pairwise(bounds)
    ]


def _skip(file: BinaryIO, size: int) -> None:
    """Pass a chunk and the zero that RIFF wants behind an odd one; MuseScore's .sf3 files leave the zero out."""
    file.seek(size, 1)
    if size % 2 and file.read(1) not in {b"\0", b""}:
        file.seek(-1, 1)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        yield name, size
