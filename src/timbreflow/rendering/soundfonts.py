"""SoundFont files: where they are, that they are the right ones, and which presets they hold."""

import importlib.util
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, sha256_file
from timbreflow.rendering.config import SoundFontSpec

BUNDLED = "TimGM6mb"
"""General MIDI font of 6 MB that the wheel of pretty_midi ships."""

MELODIC_BANKS = range(64)
"""Banks whose presets follow the General MIDI programs; GS and XG keep effects and drums above."""

_PRESET_HEADER = struct.Struct("<20sHHHIII")


@dataclass(frozen=True)
class Preset:
    """One instrument of a SoundFont.

    Args:
        soundfont: name of the font.
        bank: MIDI bank.
        program: MIDI program, from 0.
        name: as the font calls it.
    """

    soundfont: str
    bank: int
    program: int
    name: str


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
    try:
        with open(path, "rb") as file:
            headers = _preset_headers(file)
    except (OSError, struct.error, ValueError) as error:
        raise TimbreflowError(f"{path} is not a SoundFont ({error}); copy the right file there.") from error
    # The last header is the terminator that the format asks for.
    presets = [
        Preset(soundfont, bank, program, raw.split(b"\0")[0].decode("latin-1").strip())
        for raw, program, bank, *_ in _PRESET_HEADER.iter_unpack(headers[: -_PRESET_HEADER.size])
    ]
    return sorted(presets, key=lambda preset: (preset.bank, preset.program))


def list_all_presets(soundfonts: Mapping[str, Path]) -> list[Preset]:
    """Presets of several SoundFonts, given by name and path; see `list_presets`."""
    return [preset for name, path in soundfonts.items() for preset in list_presets(path, name)]


def _preset_headers(file: BinaryIO) -> bytes:
    form, _, kind = struct.unpack("<4sI4s", file.read(12))
    if form != b"RIFF" or kind != b"sfbk":
        raise ValueError("no RIFF sfbk header")
    for name, size in _chunks(file):
        if name == b"LIST" and file.read(4) == b"pdta":
            for inner, length in _chunks(file):
                if inner == b"phdr" and length % _PRESET_HEADER.size == 0 and length >= _PRESET_HEADER.size:
                    return file.read(length)
                _skip(file, length)
        elif name == b"LIST":
            _skip(file, size - 4)
        else:
            _skip(file, size)
    raise ValueError("no preset headers")


def _skip(file: BinaryIO, size: int) -> None:
    """Pass a chunk and the zero that RIFF wants behind an odd one; MuseScore's .sf3 files leave the zero out."""
    file.seek(size, 1)
    if size % 2 and file.read(1) not in {b"\0", b""}:
        file.seek(-1, 1)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        yield name, size
