"""Tables of transfers."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.inference.tiny import melody
from timbreflow.errors import TimbreflowError
from timbreflow.inference.pairs import read_pairs
from timbreflow.inference.transfer import TimbreTransfer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", melody(1, 16000), 16000)
    soundfile.write(tmp_path / "b.flac", melody(1, 22050), 22050)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    return tmp_path


def table(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_start_from_the_table_and_spreadsheet_marks_do_no_harm(folder: Path) -> None:
    path = table(folder, "\ufeffstyle,note,id,content\r\nb.flac,x,one,a.wav\r\na.wav,,Zwei 2.0-ä,b.flac\r\n")
    pairs = read_pairs(path)
    assert [(pair.id, pair.content.name, pair.style.name) for pair in pairs] == [
        ("one", "a.wav", "b.flac"),
        ("Zwei 2.0-ä", "b.flac", "a.wav"),
    ]
    assert all(pair.content.parent == folder for pair in pairs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column id, content, style"),
        ("id,content\none,a.wav\n", "no column style"),
        ("id,content,style\n", "no rows"),
        ("id,content,style\none,a.wav,b.flac\none,a.wav,b.flac\n", "line 3: id 'one' was used in line 2"),
        ("id,content,style\none,a.wav,b.flac\nONE,a.wav,b.flac\n", "line 3: id 'ONE' was used in line 2"),
        ("id,content,style\n../x,a.wav,b.flac\n", "no plain file name"),
        ("id,content,style\n/x,a.wav,b.flac\n", "no plain file name"),
        ("id,content,style\n.x,a.wav,b.flac\n", "no plain file name"),
        ("id,content,style\nx\\y,a.wav,b.flac\n", "no plain file name"),
        (f"id,content,style\n{'x' * 300},a.wav,b.flac\n", "no plain file name"),
        ("id,content,style\none,a.wav\n", "line 2: style is empty"),
        ("id,content,style\none,a.wav,b.flac\ntwo,a.wav,gone.wav\n", "line 3: style .*gone.wav is missing"),
        ('id,content,style\none,"a.wav,b.flac\n', "not a CSV file"),
    ],
)
def test_a_table_with_a_fault_is_refused_whole(folder: Path, text: str, message: str) -> None:
    with pytest.raises(TimbreflowError, match=message):
        read_pairs(table(folder, text))


def test_a_table_that_is_no_text_or_missing_is_refused(folder: Path) -> None:
    for name, message in (("b.flac", "b.flac"), ("none.csv", "none.csv is missing")):
        with pytest.raises(TimbreflowError, match=message):
            read_pairs(folder / name)


def test_one_bad_pair_does_not_stop_the_others(bundles: dict[str, Path], folder: Path) -> None:
    path = table(folder, "id,content,style\none,a.wav,b.flac\nbad,silent.wav,a.wav\ntwo,b.flac,a.wav\n")
    heard: list[str] = []
    with pytest.raises(TimbreflowError, match=r"1 of 3 pairs failed.*bad: .*silent.wav is silent"):
        TimbreTransfer.load(bundles["vqvae"]).transfer_pairs(path, folder / "out", report=heard.append)
    assert sorted(file.name for file in (folder / "out").iterdir()) == ["one.wav", "two.wav"]
    assert soundfile.info(folder / "out" / "two.wav").samplerate == 22050
    assert [line.split()[0] for line in heard] == ["wrote", "failed", "wrote"]


def test_a_good_table_gives_all_files(bundles: dict[str, Path], folder: Path) -> None:
    path = table(folder, "id,content,style\none,a.wav,b.flac\ntwo,b.flac,a.wav\n")
    written = TimbreTransfer.load(bundles["glow"]).transfer_pairs(path, folder / "out", seed=2)
    assert [file.name for file in written] == ["one.wav", "two.wav"]
    assert all(file.is_file() for file in written)


def test_a_refused_table_leaves_nothing_behind(bundles: dict[str, Path], folder: Path) -> None:
    path = table(folder, "id,content,style\none,a.wav,b.flac\n../two,b.flac,a.wav\n")
    with pytest.raises(TimbreflowError, match="line 3"):
        TimbreTransfer.load(bundles["vqvae"]).transfer_pairs(path, folder / "out")
    assert not (folder / "out").exists()
