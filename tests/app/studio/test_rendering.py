"""What the studio's buttons make, with tiny models."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.inference.conftest import bundles  # noqa: F401
from tests.inference.test_songs import write_song
from tests.inference.tiny import melody
from timbreflow.app.studio import markup, pictures, rendering
from timbreflow.app.studio.people import People, Person
from timbreflow.app.studio.rendering import Result, StyleChoice
from timbreflow.cli import app
from timbreflow.errors import Cancelled, TimbreflowError
from timbreflow.inference.pianoroll import HeardNote
from timbreflow.inference.transfer import TimbreTransfer

RATE = 16000


@pytest.fixture
def person(tmp_path: Path) -> Person:
    (tmp_path / "studio").mkdir()
    return People(tmp_path / "studio")["a"]


@pytest.fixture
def sounds(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for number, name in enumerate(("tune.wav", "-flute <b>.wav", "horn.wav")):
        made[name] = tmp_path / name
        soundfile.write(made[name], melody(3, RATE, seed=number), RATE)
    return made


def render(
    session: TimbreTransfer, person: Person, sounds: dict[str, Path], *, takes: int = 1, **options: object
) -> Result:
    content, *styles = sounds.values()
    return rendering.transfer(
        session,
        person,
        person.content(content),
        [StyleChoice(person.style(style), 1 + number) for number, style in enumerate(styles)],
        model="glow",
        description="the tiny one",
        takes=takes,
        options=options,  # type: ignore[arg-type]
        progress=lambda fraction: None,
        cancel=lambda: False,
    )


@pytest.mark.parametrize("kind", ["vqvae", "glow"])
def test_content_styles_and_result_are_shown_and_given(
    bundles: dict[str, Path],  # noqa: F811
    person: Person,
    sounds: dict[str, Path],
    kind: str,
) -> None:
    result = render(TimbreTransfer.load(bundles[kind]), person, sounds)
    assert [track.label for track in result.tracks] == ["Content", "Style 1", "Style 2", "Result"]
    assert result.start == 3
    for track in result.tracks:
        assert soundfile.info(track.audio).duration == pytest.approx(3)
        assert all(path.is_file() and path.is_relative_to(person.folder) for _, path in track.pictures)
    wav, flac = (soundfile.read(path)[0] for _, path, _ in result.tracks[-1].downloads)
    np.testing.assert_array_equal(wav, flac)
    page = markup.result(result, name="x")
    assert page.count('type="radio"') == 4
    assert "<b>.wav" not in page
    assert "&lt;b&gt;.wav" in page


def test_the_command_line_makes_the_same(
    bundles: dict[str, Path],  # noqa: F811
    person: Person,
    sounds: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = render(
        TimbreTransfer.load(bundles["glow"]), person, sounds, strength=0.5, mix=0.8, transpose=2, seed=3, mode="sample"
    )
    words = shlex.split(result.command)
    assert words[:5] == ["timbreflow", "transfer", "tune.wav", "./-flute <b>.wav", "horn.wav"]
    words[words.index("glow")] = str(bundles["glow"])
    monkeypatch.chdir(tmp_path)
    app(words[1:], exit_on_error=False, result_action="return_value")
    made = result.tracks[-1].downloads[0][1]
    assert (tmp_path / "result.wav").read_bytes() == made.read_bytes()


def test_four_takes_have_words(
    bundles: dict[str, Path],  # noqa: F811
    person: Person,
    sounds: dict[str, Path],
) -> None:
    result = render(TimbreTransfer.load(bundles["glow"]), person, sounds, takes=4)
    takes = result.tracks[3:]
    assert [take.label for take in takes] == ["Take 1", "Take 2", "Take 3", "Take 4"]
    assert {take.detail.split("(seed ")[1] for take in takes} == {"0)", "1)", "2)", "3)"}
    assert all("style" in take.detail for take in takes)
    assert "--takes 4" in result.command


def test_a_part_chosen_by_hand_is_what_is_used(person: Person, sounds: dict[str, Path]) -> None:
    style = person.style(sounds["horn.wav"])
    cut = rendering.chosen_part(StyleChoice(style, 1, (1.0, 2.5)), person)
    np.testing.assert_allclose(
        soundfile.read(cut.path)[0], soundfile.read(style.path)[0][RATE : RATE * 5 // 2], atol=1e-6
    )
    assert cut.name == "horn-from-1-to-2.5-s.wav"
    assert rendering.chosen_part(StyleChoice(style), person) is style
    for part, said in (((1.0, 1.2), "lasts 0.20 s; choose 0.5 to 16"), ((2.0, 5.0), "is not in horn.wav")):
        with pytest.raises(TimbreflowError, match=said):
            rendering.chosen_part(StyleChoice(style, 1, part), person)


def test_a_cancelled_job_leaves_nothing(
    bundles: dict[str, Path],  # noqa: F811
    person: Person,
    sounds: dict[str, Path],
) -> None:
    content, style, _ = sounds.values()
    given = person.content(content), [StyleChoice(person.style(style))]
    before = set(person.folder.rglob("*"))
    with pytest.raises(Cancelled):
        rendering.transfer(
            TimbreTransfer.load(bundles["vqvae"]),
            person,
            *given,
            model="vqvae",
            description="",
            takes=1,
            options={},
            progress=lambda fraction: None,
            cancel=lambda: True,
        )
    assert set(person.folder.rglob("*")) == before


def test_a_song_gets_a_style(
    bundles: dict[str, Path],  # noqa: F811
    person: Person,
    sounds: dict[str, Path],
    tmp_path: Path,
) -> None:
    score = person.content(write_song(tmp_path / "song.mid"))
    assert score.score is not None
    result = rendering.song(
        TimbreTransfer.load(bundles["vqvae"]),
        person,
        score.score,
        score.name,
        {0: StyleChoice(person.style(sounds["horn.wav"]))},
        model="vqvae",
        description="the tiny one",
        others="leave-out",
        options={"seed": 2},
        progress=lambda fraction: None,
        cancel=lambda: False,
    )
    assert soundfile.info(result.tracks[0].audio).channels == 2
    assert result.command == (
        "timbreflow reinstrument song.mid -o result.wav --style 0=horn.wav --model vqvae --others leave-out --seed 2"
    )


def test_pictures_show_the_sound(bundles: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    sound = np.concatenate([np.zeros(RATE), melody(1, RATE)])
    soundfile.write(tmp_path / "half.wav", sound, RATE)
    low, high = pictures.envelope(tmp_path / "half.wav", columns=100)
    assert not high[:50].any()
    assert high.max() == pytest.approx(sound.max(), abs=1e-3)
    assert low.min() == pytest.approx(sound.min(), abs=1e-3)

    from PIL import Image

    session = TimbreTransfer.load(bundles["glow"])
    mel = np.asarray(Image.open(pictures.mel_spectrogram(tmp_path / "half.wav", session, tmp_path / "mel.png")))
    assert mel.shape == (40, 64, 3)
    assert mel[:, :28].sum() < mel[:, 36:].sum() / 4
    roll = np.asarray(Image.open(pictures.piano_roll([HeardNote(1, 1, 60)], 2, tmp_path / "roll.png")))
    rows, columns = np.nonzero((roll == pictures.NOTE).all(-1))
    assert set(rows) == {len(roll) // 2}
    assert (columns.min(), columns.max()) == (500, 998)


def test_a_long_sound_gets_no_wider_picture(bundles: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    soundfile.write(tmp_path / "long.wav", np.tile(melody(10, 8000), 12), 8000)
    from PIL import Image

    session = TimbreTransfer.load(bundles["glow"])
    image = Image.open(pictures.mel_spectrogram(tmp_path / "long.wav", session, tmp_path / "mel.png"))
    assert pictures.WIDTH <= image.width < 2 * pictures.WIDTH


def test_six_channels_can_be_played(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "six.wav", np.repeat(melody(1, RATE)[:, None], 6, 1), RATE, subtype="DOUBLE")
    out = soundfile.info(rendering.playable(tmp_path / "six.wav", tmp_path / "play.flac"))
    assert (out.channels, out.subtype, out.frames) == (1, "PCM_16", RATE)


def test_the_studio_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    from timbreflow.app.studio.serve import serve

    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "timbreflow.app.studio.page", raising=False)
    with pytest.raises(TimbreflowError, match="make studio"):
        serve(
            lambda name: (tmp_path, name),
            host="127.0.0.1",
            port=1,
            examples=tmp_path,
            report=print,
            inbrowser=False,
        )
    shutil.rmtree(tmp_path, ignore_errors=True)
