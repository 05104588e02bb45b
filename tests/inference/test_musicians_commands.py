"""The commands of docs/musicians.md."""

import re
import shlex
from pathlib import Path

import pretty_midi
import pytest
import soundfile

from tests.inference.tiny import melody
from timbreflow.cli import app
from timbreflow.commands.songs import familiarity, reinstrument
from timbreflow.commands.transfer import transfer
from timbreflow.errors import TimbreflowError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "musicians.md").read_text(encoding="utf-8")
COMMANDS = [
    re.split(r"\s+# ", line)[0].removeprefix(".venv/bin/timbreflow ")
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(".venv/bin/timbreflow ")
]


def run(line: str) -> None:
    app(shlex.split(line), exit_on_error=False, print_error=False, result_action="return_value")


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page names, short ones."""
    for number, name in enumerate(("melody", "cello", "flute", "violin", "voice")):
        soundfile.write(tmp_path / f"{name}.wav", melody(1.5, 22050, seed=number), 22050)
    song = pretty_midi.PrettyMIDI()
    for program in (40, 0, 32, 73):
        part = pretty_midi.Instrument(program, name=f"part {program}")
        part.notes = [pretty_midi.Note(90, 60 + step, step / 2, step / 2 + 0.4) for step in range(3)]
        song.instruments.append(part)
    song.write(str(tmp_path / "song.mid"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_runs(line: str, studio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(studio.iterdir())
    run(line)
    words = shlex.split(line)
    named = {words[place + 1] for place, word in enumerate(words) if word in ("-o", "--midi")}
    made = {path.name for path in set(studio.iterdir()) - before}
    if "--takes" in words:
        assert made == {f"out-{number + 1}.wav" for number in range(int(words[words.index("--takes") + 1]))}
    else:
        assert made == named
        assert named or capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("transfer melody.wav cello.wav -o out.wav --midi melody.wav", r"melody\.wav is an input"),
        ("transfer song.mid cello.wav -o out.wav --midi song.mid", r"song\.mid is an input"),
        ("transfer melody.wav cello.wav -o out.wav --midi out.wav", r"out\.wav is named for two outputs"),
        (
            "transfer melody.wav cello.wav -o out.wav --model glow --takes 2 --midi out-2.wav",
            r"out-2\.wav is named for two",
        ),
    ],
)
def test_notes_that_would_replace_a_sound_are_refused_before_any_work(line: str, message: str, studio: Path) -> None:
    before = {path: path.read_bytes() for path in studio.iterdir() if path.is_file()}
    with pytest.raises(TimbreflowError, match=message):
        run(line)
    assert {path: path.read_bytes() for path in studio.iterdir() if path.is_file()} == before


def test_the_page_shows_every_option() -> None:
    assert len(COMMANDS) >= 12
    for option in ("blend", "strength", "transpose", "mix", "loudness", "stereo", "takes", "midi", "style", "others"):
        assert any(f"--{option} " in line for line in COMMANDS), option


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"style": ("0",)}, "--style 0 is not TRACK=FILE"),
        ({"style": ("0=",)}, "is not TRACK=FILE"),
        ({"style": ("x=a.wav",)}, "is not TRACK=FILE"),
        ({"style": ("0=a.wav", "0=b.wav")}, "Track 0 gets two styles"),
        ({"style": ("0=cello.wav",)}, "Name the sound file to write by -o"),
    ],
)
def test_styles_that_are_not_understood(studio: Path, arguments: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(TimbreflowError, match=message):
        reinstrument(studio / "song.mid", **arguments)  # type: ignore[arg-type]


def test_a_blend_that_is_no_list_of_numbers(studio: Path) -> None:
    with pytest.raises(TimbreflowError, match="--blend a,b is no list of numbers"):
        transfer(studio / "melody.wav", studio / "cello.wav", studio / "flute.wav", out=studio / "o.wav", blend="a,b")


def test_familiarity_wants_a_style_or_clips() -> None:
    with pytest.raises(TimbreflowError, match="Give STYLE, or --write"):
        familiarity()
