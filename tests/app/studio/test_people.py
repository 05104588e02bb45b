"""What the studio takes from people, and what it refuses in one sentence."""

import time
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile

from tests.inference.test_songs import write_song
from tests.inference.tiny import melody
from timbreflow.app.studio import people as module
from timbreflow.app.studio.people import People, Person, Status
from timbreflow.errors import Cancelled, TimbreflowError

RATE = 16000


@pytest.fixture
def person(tmp_path: Path) -> Person:
    (tmp_path / "studio").mkdir()
    return People(tmp_path / "studio")["a"]


def written(path: Path, sound: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, sound, rate, subtype=subtype)
    return path


def refused(person: Person, path: Path, role: str = "content") -> str:
    """The sentence, which has the file's name, no folder of the studio, and leaves no file."""
    before = set(person.folder.iterdir())
    with pytest.raises(TimbreflowError) as error:
        getattr(person, role)(path)
    sentence = str(error.value)
    assert path.name in sentence
    assert str(person.folder) not in sentence
    assert "\n" not in sentence
    assert set(person.folder.iterdir()) == before
    return sentence


def test_a_video_is_refused(person: Person, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(4096))
    assert "cannot be read as sound" in refused(person, tmp_path / "clip.mp4")


def test_text_named_wav_is_refused(person: Person, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"la la la\n" * (20_000_000 // 9))
    assert "cannot be read as sound" in refused(person, tmp_path / "song.wav")


def test_three_hours_are_refused_without_being_decoded(person: Person, tmp_path: Path) -> None:
    path = written(tmp_path / "long.wav", np.zeros(1), 8000, "PCM_U8")
    n_bytes = 8000 * 3 * 3600
    with open(path, "r+b") as file:
        file.truncate(44 + n_bytes)
        for place, size in ((4, 36 + n_bytes), (40, n_bytes)):
            file.seek(place)
            file.write(size.to_bytes(4, "little"))
    assert "lasts 180 minutes; give a content of at most 60" in refused(person, path)


def test_a_large_upload_is_refused(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MEGABYTES", 0.01)
    path = written(tmp_path / "big.wav", melody(2, RATE))
    assert "cut it into parts" in refused(person, path)


@pytest.mark.parametrize(
    ("sound", "said"), [(np.zeros(RATE * 2), "silent"), (melody(0.3, RATE), "0.30 s, which is too short")]
)
def test_a_silent_or_short_style_is_refused(person: Person, tmp_path: Path, sound: np.ndarray, said: str) -> None:
    assert said in refused(person, written(tmp_path / "style.wav", sound), "style")


def test_a_song_without_notes_is_refused(person: Person, tmp_path: Path) -> None:
    (tmp_path / "empty.mid").write_bytes(b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0")
    assert "cannot be played" in refused(person, tmp_path / "empty.mid")


@pytest.mark.parametrize(
    ("channels", "rate", "subtype", "level", "offset", "said"),
    [
        (6, 48000, "PCM_16", 0.1, 0.0, ""),
        (1, 96000, "PCM_24", 0.1, 0.0, ""),
        (1, RATE, "DOUBLE", 0.1, 0.0, ""),
        (1, RATE, "PCM_U8", 0.1, 0.0, ""),
        (1, RATE, "DOUBLE", 3.0, 0.0, "times full scale"),
        (1, RATE, "PCM_16", 0.1, 0.5, "constant offset"),
    ],
)
def test_odd_formats_are_taken_and_told(
    person: Person, tmp_path: Path, channels: int, rate: int, subtype: str, level: float, offset: float, said: str
) -> None:
    sound = np.repeat(melody(1, rate, level=level)[:, None], channels, 1) + offset
    taken = person.content(written(tmp_path / "odd.wav", sound, rate, subtype))
    assert taken.seconds == pytest.approx(1)
    assert said in " ".join(taken.notes)
    assert bool(taken.notes) == bool(said)


def test_names_are_never_paths(person: Person, tmp_path: Path) -> None:
    folder = tmp_path / ".." / tmp_path.name
    path = written(folder / "..%2f..%2fx; rm -rf.wav", melody(1, RATE))
    taken = person.content(path)
    assert taken.name == "..%2f..%2fx; rm -rf.wav"
    assert taken.path.parent == person.folder
    assert taken.path.name.startswith("content-")


def test_a_score_is_played_to_be_a_content(person: Person, tmp_path: Path) -> None:
    taken = person.content(write_song(tmp_path / "song.mid"))
    assert taken.score is not None
    assert taken.seconds == pytest.approx(5, abs=0.2)
    assert "song.mid was played by TimGM6mb without its drums" in taken.notes[0]
    assert str(person.folder) not in taken.notes[0]


def test_who_leaves_stops_and_leaves_nothing(tmp_path: Path) -> None:
    people = People(tmp_path)
    person, stopped = people["a"], Event()
    person.content(written(tmp_path / "given.wav", melody(1, RATE)))

    def work(progress: object, cancel: object) -> None:
        assert callable(cancel)
        while not cancel():
            time.sleep(0.01)
        stopped.set()

    run = people.run(person, work)
    assert next(run).fraction in (None, 0.0)
    people.leave("a")
    assert stopped.is_set()
    assert not person.folder.exists()


def test_two_at_once_wait_for_each_other_and_one_may_give_up(tmp_path: Path) -> None:
    people = People(tmp_path)
    go, both = Event(), {"first": 0, "second": 0}

    def first(progress: object, cancel: object) -> str:
        go.wait(10)
        return "done"

    running = people.run(people["a"], first)
    next(running)
    time.sleep(0.1)
    waiting = people.run(people["b"], lambda progress, cancel: both)
    assert next(waiting) == Status()
    with pytest.raises(TimbreflowError, match="has a job that still runs"):
        next(people.run(people["a"], first))
    people["b"].cancelled = True
    with pytest.raises(Cancelled):
        list(waiting)
    go.set()
    assert list(running)[-1] == "done"


def test_the_time_that_is_left_is_told(tmp_path: Path) -> None:
    people = People(tmp_path)

    def work(progress: object, cancel: object) -> str:
        assert callable(progress)
        time.sleep(0.2)
        progress(0.25)
        time.sleep(0.8)
        return "done"

    seen = [now for now in people.run(people["a"], work) if isinstance(now, Status) and now.seconds_left]
    assert seen[0].fraction == 0.25
    assert seen[0].seconds_left == pytest.approx(3 * 0.4, rel=0.9)


def test_nobody_can_guess_the_folder_of_another(tmp_path: Path) -> None:
    people = People(tmp_path)
    first, second = people["a"].folder.name, people["b"].folder.name
    assert first != second
    assert len(first) > 32
    assert people["a"].folder.name == first
