"""A server's folder for what people give it: private, and deleted in the end, by whom it may be."""

import stat
import tempfile
from pathlib import Path

import pytest

from timbreflow.app.private import private_folder
from timbreflow.errors import TimbreflowError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_its_owners_alone_and_goes_at_the_end(temporary: Path) -> None:
    with pytest.raises(ZeroDivisionError), private_folder("a-") as folder:
        assert folder.parent == temporary and folder.name.startswith("a-")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "sound").touch()
        raise ZeroDivisionError
    assert list(temporary.iterdir()) == []


def test_what_the_dead_left_goes_and_what_lives_stays(temporary: Path) -> None:
    for name in ("a-dead", "b-dead", "elsewhere"):
        (temporary / name).mkdir()
        (temporary / name / "sound").touch()
    (temporary / "a-link").symlink_to(temporary / "elsewhere")
    with private_folder("a-") as first, private_folder("a-") as second:
        assert {path.name for path in temporary.iterdir()} == {
            *[first.name, second.name, "a-link", "b-dead", "elsewhere"]
        }
    assert (temporary / "elsewhere" / "sound").exists()


def test_no_place_for_a_folder_is_one_sentence(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "nowhere"))
    with (
        pytest.raises(TimbreflowError, match=r"nowhere cannot be written \(No such file.*set TMPDIR"),
        private_folder("a-"),
    ):
        pass
