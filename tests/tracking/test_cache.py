"""What was damaged in DVC's cache is noticed, and DVC makes it again."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.dvc_cache import flip, stored
from timbreflow.commands import house
from timbreflow.tracking.cache import remove_damaged

PIPELINE = """\
stages:
  make:
    cmd: mkdir -p data && printf first > data/first && printf second > data/second
    outs: [data]
  read:
    cmd: mkdir -p results && cat data/* > results/both
    deps: [data]
    outs: [results/both]
  other:
    cmd: printf other > results/other
    outs: [results/other]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """All stages have run; what lies in it is linked to the cache."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nno_scm = true\n[cache]\ntype = 'hardlink,symlink'\n")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    assert dvc(tmp_path, "repro")[0] == 0
    return tmp_path


def dvc(root: Path, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def test_what_dvc_hands_out_damaged_is_removed_and_made_again(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(house, "project_root", lambda: checkout)
    flip(stored(checkout, "data/first"))
    (checkout / "data" / "first").unlink()
    dvc(checkout, "checkout")
    house.cache()
    assert "data/first" in capsys.readouterr().out
    house.cache()
    assert capsys.readouterr().out == "DVC's cache is whole.\n"
    code, said = dvc(checkout, "repro")
    assert (code, "Running stage 'make'" in said) == (0, True)
    assert (checkout / "data" / "first").read_text() == "first"


def test_what_dvc_s_cache_lacks_dvc_names_and_makes_again(checkout: Path) -> None:
    stored(checkout, "results/both").unlink()
    (checkout / "results" / "both").unlink()
    code, said = dvc(checkout, "checkout")
    assert code != 0 and "results/both" in said
    assert remove_damaged(checkout) == ""
    assert dvc(checkout, "repro")[0] == 0
    assert (checkout / "results" / "both").read_text() == "firstsecond"


def test_of_a_stage_its_inputs_and_outputs_are_looked_at(checkout: Path) -> None:
    flip(stored(checkout, "results/both"))
    assert remove_damaged(checkout, "make") == remove_damaged(checkout, "other") == ""
    assert "results/both" in remove_damaged(checkout, "read")
    flip(stored(checkout, "data/second"))
    assert "data/second" in remove_damaged(checkout, "read")
    assert not (checkout / "data" / "second").exists() and (checkout / "data" / "first").exists()
    flip(stored(checkout, "results/other"))
    assert "results/other" in remove_damaged(checkout, "a stage that has not run yet")


def test_a_damaged_list_of_files_is_named(checkout: Path) -> None:
    (folder,) = (checkout / ".dvc" / "cache" / "files" / "md5").glob("??/*.dir")
    flip(folder)
    assert str(folder) in remove_damaged(checkout, "read")
    assert dvc(checkout, "repro")[0] == 0 and folder.exists()
