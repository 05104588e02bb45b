"""Files of strangers cannot ask for any memory or time; docs/SECURITY.md lists the limits."""

import json
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.inference.tiny import save_bundles
from tests.rendering.small_font import write_font
from timbreflow import plain_yaml
from timbreflow.app.listening.study import STUDY, read_study
from timbreflow.config import load_params
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json
from timbreflow.inference import pairs
from timbreflow.inference.pairs import read_pairs
from timbreflow.models.bundle import load_bundle
from timbreflow.rendering.soundfonts import played_samples


@contextmanager
def within(seconds: float, megabytes: int) -> Iterator[None]:
    """What is inside takes no more time than that, nor so much memory beside what there is."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - used.ru_utime < seconds
    assert after.ru_maxrss - used.ru_maxrss < megabytes * 1024


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
BOMBS = {
    "aliases": (LAUGHS, "stands for more than"),
    "endless": ("a: &a\n  b: *a\n", "nested too deeply"),
    "deep": ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    "large": ("a: " + "x" * (plain_yaml.MOST_CHARACTERS + 1), "the limit is"),
    "digits": ("a: " + "9" * 10_000, "digits"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_yaml_unfolds_to_no_more_than_a_limit(bomb: str, tmp_path: Path) -> None:
    text, reason = BOMBS[bomb]
    readers: list[tuple[str, Callable[[], Any]]] = [
        ("params.yaml", lambda: load_params(tmp_path / "params.yaml")),
        (STUDY, lambda: read_study(tmp_path)),
    ]
    for name, read in readers:
        (tmp_path / name).write_text(text)
        with within(10, 300), pytest.raises(TimbreflowError, match=reason):
            read()


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000, '{"a": ' * 50_000])
def test_json_that_python_cannot_hold_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(TimbreflowError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_a_table_of_pairs_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MOST_BYTES", 100)
    (tmp_path / "a.csv").write_text("id,content,style\n" + "a,b,c\n" * 20)
    with pytest.raises(TimbreflowError, match="split it"):
        read_pairs(tmp_path / "a.csv")


def test_a_name_that_no_system_takes_is_a_missing_file(tmp_path: Path) -> None:
    for name in ("~nobody-of-this-name/b.wav", "a" * 5000, "a/" * 5000):
        (tmp_path / "a.csv").write_text(f"id,content,style\na,{name},c.wav\n")
        with pytest.raises(TimbreflowError, match="is missing"):
            read_pairs(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model", "width"), 10**9),
        (("model", "content", "width"), 2**40),
        (("model", "content", "n_blocks"), 10**9),
        (("model", "n_blocks"), 10**7),
        (("model", "quantizer", "codebook_size"), 10**12),
        (("model", "n_features"), 2**62),
        (("model", "style", "n_tokens"), 10**8),
        (("features", "n_fft"), 2**40),
        (("features", "sample_rate"), 10**12),
    ],
)
def test_settings_of_a_model_take_no_more_than_its_weights(place: tuple[str, ...], value: int, tmp_path: Path) -> None:
    folder = save_bundles(tmp_path)["vqvae"]
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for name in place[:-1]:
        inner = inner[name]
    assert place[-1] in inner
    inner[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    began = time.monotonic()
    with within(10, 500), pytest.raises(TimbreflowError):
        load_bundle(folder)
    assert time.monotonic() - began < 60


def test_a_soundfont_cannot_name_its_sound_again_and_again(tmp_path: Path) -> None:
    path = write_font(tmp_path / "a.sf2", {(0, 0): [bytes(range(200))], (0, 1): [bytes(200)]})
    assert len(played_samples(path)) == 2
    data = path.read_bytes()
    # Zones that go back and forth would list all generators each time.
    bag = data.index(b"ibag") + 8
    turned = data[:bag] + struct.pack("<HH", 2, 0) + data[bag + 4 :]
    path.write_bytes(turned)
    with pytest.raises(TimbreflowError, match="out of order"):
        played_samples(path)
    # Chunks that say that they are longer than the file: the sound, and a table.
    sound = data.index(b"smpl") + 4
    long = struct.pack("<20sIIIIIBbHH", b"s0", 0, 2**31 - 1, 0, 0, 16000, 60, 0, 0, 1)
    at = data.index(b"shdr") + 8
    path.write_bytes(data[:sound] + struct.pack("<I", 2**32 - 1) + data[sound + 4 : at] + long + data[at + 46 :])
    with within(5, 200), pytest.raises(TimbreflowError):
        played_samples(path)
    place = data.index(b"shdr") + 4
    path.write_bytes(data[:place] + struct.pack("<I", 46 * 90_000_000) + data[place + 4 :])
    with within(5, 200), pytest.raises(TimbreflowError, match="no usable chunk"):
        played_samples(path)
    # A sample that ends before it begins would be read to the end of the file.
    place = data.index(b"shdr") + 8
    first = bytearray(data[place : place + 46])
    first[20:28] = struct.pack("<II", 50, 10)
    path.write_bytes(data[:place] + bytes(first) + data[place + 46 :])
    assert len(played_samples(path)) == 2
