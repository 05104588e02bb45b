import struct
from pathlib import Path

import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.files import sha256_file
from timbreflow.rendering.config import SoundFontSpec
from timbreflow.rendering.soundfonts import BUNDLED, bundled_soundfont, find_soundfont, list_presets


def test_the_bundled_font_holds_general_midi() -> None:
    presets = list_presets(bundled_soundfont(), BUNDLED)
    assert {preset.program for preset in presets if preset.bank == 0} == set(range(128))
    assert presets[0].name.lower().startswith("piano")
    assert any(preset.bank == 128 for preset in presets)


def test_a_font_in_the_folder_is_found_by_name_and_sha256(tmp_path: Path) -> None:
    path = tmp_path / "Mine.sf3"
    path.write_bytes(b"anything")
    spec = SoundFontSpec("Mine", sha256_file(path), "test")
    assert find_soundfont(spec, tmp_path) == path


def test_a_missing_font_is_named_with_its_sha256_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match=r"Mine\.sf2.*abc123.*timbreflow corpus fetch Mine"):
        find_soundfont(SoundFontSpec("Mine", "abc123", "train"), tmp_path)


def test_another_file_of_the_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match=r"TimGM6mb\.sf2 has sha256 82475b91.*instead of abc123"):
        find_soundfont(SoundFontSpec(BUNDLED, "abc123", "train"), tmp_path)


@pytest.mark.parametrize("size", [0, 10, 100])
def test_broken_fonts_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "broken.sf2"
    path.write_bytes(bundled_soundfont().read_bytes()[:size])
    with pytest.raises(TimbreflowError, match=r"broken\.sf2 is not a SoundFont"):
        list_presets(path, "broken")


@pytest.mark.parametrize("padding", [b"\0", b""])
def test_an_odd_chunk_may_lack_the_zero_behind_it(tmp_path: Path, padding: bytes) -> None:
    # As RIFF wants it, and as MuseScore writes its .sf3 files.
    header = struct.Struct("<20sHHHIII")
    presets = header.pack(b"Flute", 73, 8, 0, 0, 0, 0) + header.pack(b"EOP", 0, 0, 0, 0, 0, 0)
    lists = [b"sdta" + b"smpl" + struct.pack("<I", 3) + b"abc", b"pdta" + b"phdr" + struct.pack("<I", 76) + presets]
    chunks = [b"LIST" + struct.pack("<I", len(data)) + data + padding * (len(data) % 2) for data in lists]
    body = b"sfbk" + b"".join(chunks)
    path = tmp_path / "small.sf3"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    (preset,) = list_presets(path, "small")
    assert (preset.bank, preset.program, preset.name) == (8, 73, "Flute")
