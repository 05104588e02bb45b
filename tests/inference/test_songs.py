"""MIDI files as contents and as songs whose tracks get styles."""

from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import soundfile

from tests.inference.tiny import melody
from timbreflow.errors import Cancelled, TimbreflowError
from timbreflow.inference.songs import PEAK, SAMPLE_RATE, read_song, reinstrument
from timbreflow.inference.transfer import TimbreTransfer


@pytest.fixture
def style(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "style.wav", melody(2, 16000, seed=1), 16000)
    return tmp_path / "style.wav"


def write_song(path: Path, *, pans: tuple[int, int] = (0, 127), volume: int = 100) -> Path:
    """A violin and a piano one after the other, drums throughout, and a track without notes."""
    song = pretty_midi.PrettyMIDI()
    parts = [
        pretty_midi.Instrument(40, name="Violin"),
        pretty_midi.Instrument(1, name="nothing"),
        pretty_midi.Instrument(0, name="Piano"),
        pretty_midi.Instrument(0, is_drum=True, name="Kit"),
    ]
    for part, start, pan in ((parts[0], 0.0, pans[0]), (parts[2], 2.0, pans[1])):
        part.notes = [
            pretty_midi.Note(90, 60 + step, start + step / 2, start + step / 2 + 0.45) for step in (0, 1, 2, 3)
        ]
        part.control_changes = [pretty_midi.ControlChange(10, pan, 0.0), pretty_midi.ControlChange(7, volume, 0.0)]
    parts[3].notes = [pretty_midi.Note(20, 42, beat / 2, beat / 2 + 0.1) for beat in range(8)]
    song.instruments = parts
    song.write(str(path))
    return path


def power(path: Path, start: float, end: float) -> np.ndarray:
    """Of both channels of a stretch."""
    sound, rate = soundfile.read(path)
    assert rate == SAMPLE_RATE
    return np.asarray(np.mean(np.square(sound[round(start * rate) : round(end * rate)]), axis=0))


def test_tracks_have_numbers_names_and_kinds(tmp_path: Path) -> None:
    song = read_song(write_song(tmp_path / "song.mid"))
    assert [track.description for track in song.tracks] == [
        "0: Violin (program 40, 4 notes)",
        "1: Piano (program 0, 4 notes)",
        "2: Kit (drums, 8 notes)",
    ]
    assert song.seconds == pytest.approx(3.95, abs=0.01)


def test_a_styled_track_stands_where_the_file_puts_it(vqvae: TimbreTransfer, tmp_path: Path, style: Path) -> None:
    out, heard = tmp_path / "song.wav", []  # type: ignore[var-annotated]
    reinstrument(vqvae, write_song(tmp_path / "song.mid"), {0: style}, out, progress=heard.append)
    sound, rate = soundfile.read(out)
    assert sound.shape == (round(4.95 * rate), 2)
    assert np.abs(sound).max() == pytest.approx(PEAK, rel=1e-3)
    violin, piano = power(out, 0.1, 1.9), power(out, 2.1, 3.9)
    assert violin[0] > 100 * violin[1]  # hard left, but for the drums
    assert piano[1] > 100 * violin[1]  # hard right, where an untrained model's hum on the left does not reach
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["song.mid", "song.wav", "style.wav"]


def test_volume_acts_on_styled_tracks_as_on_plain_ones(vqvae: TimbreTransfer, tmp_path: Path, style: Path) -> None:
    balance = []
    for volume in (100, 50):
        song = write_song(tmp_path / "song.mid", pans=(64, 64), volume=volume)
        for styles in ({0: style}, {1: style}):
            reinstrument(vqvae, song, styles, tmp_path / "out.wav")
            violin, piano = power(tmp_path / "out.wav", 0.1, 1.9), power(tmp_path / "out.wav", 2.1, 3.9)
            balance.append(10 * np.log10(violin / piano))
    # Both tracks got quieter alike: their balance stays, whichever of them is styled.
    np.testing.assert_allclose(balance[:2], balance[2:], atol=1.0)


def test_the_others_can_be_left_out(vqvae: TimbreTransfer, tmp_path: Path, style: Path) -> None:
    song, out = write_song(tmp_path / "song.mid"), tmp_path / "out.wav"
    reinstrument(vqvae, song, {0: style}, out, others="leave-out")
    left, right = power(out, 0.1, 3.9)
    assert right < 1e-6 * left
    reinstrument(vqvae, song, {0: style, 1: style}, out, others="leave-out")
    left, right = power(out, 0.1, 3.9)
    assert left / 10 < right < 10 * left


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (7, r"has no track 7 with notes; it has 0: Violin \(program 40, 4 notes\); 1: Piano"),
        (2, r"Track 2: Kit \(drums, 8 notes\) of .* is drums"),
    ],
)
def test_tracks_that_get_no_style(
    vqvae: TimbreTransfer, tmp_path: Path, style: Path, number: int, message: str
) -> None:
    with pytest.raises(TimbreflowError, match=message):
        reinstrument(vqvae, write_song(tmp_path / "song.mid"), {number: style}, tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


def test_notes_that_other_readers_lose_are_in_the_song(tmp_path: Path) -> None:
    """Running status behind a system message, and a header that names too few tracks."""
    song, tune_request = tmp_path / "song.mid", b"\x00\xf6"
    behind = b"\x00\x90\x3c\x50\x60\x3c\x00" + tune_request + b"\x00\x40\x50\x60\x40\x00\x00\xff\x2f\x00"
    track = b"MTrk" + len(behind).to_bytes(4, "big") + behind
    song.write_bytes(b"MThd\0\0\0\6\0\1\0\1\0\x60" + track + track)
    assert [each.n_notes for each in read_song(song).tracks] == [2, 2]
    # Where those are all the notes there are.
    alone = b"\x00\x90\x3c\x00" + tune_request + b"\x00\x40\x50\x60\x40\x00\x00\xff\x2f\x00"
    song.write_bytes(b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk" + len(alone).to_bytes(4, "big") + alone)
    assert [each.n_notes for each in read_song(song).tracks] == [1]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "it is empty"), (b"RIFF" * 100, "cannot be played"), (b"MThd\0\0\0\6\0\1\0\1\1\xe0", "cannot be played")],
)
def test_files_that_are_no_songs(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "song.mid").write_bytes(data)
    with pytest.raises(TimbreflowError, match=message):
        read_song(tmp_path / "song.mid")
    with pytest.raises(TimbreflowError, match="is missing"):
        read_song(tmp_path / "none.mid")


def test_cancelling_a_song_leaves_nothing(vqvae: TimbreTransfer, tmp_path: Path, style: Path) -> None:
    song, heard = write_song(tmp_path / "song.mid"), []  # type: ignore[var-annotated]
    with pytest.raises(Cancelled):
        reinstrument(vqvae, song, {0: style}, tmp_path / "o.wav", progress=heard.append, cancel=lambda: len(heard) > 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["song.mid", "style.wav"]


def test_a_score_can_be_the_content(vqvae: TimbreTransfer, tmp_path: Path, style: Path) -> None:
    result = vqvae.transfer_file(write_song(tmp_path / "song.mid"), style, tmp_path / "out.wav")
    assert result.notes[0].endswith("song.mid was played by TimGM6mb without its drums to be the content.")
    sound, rate = soundfile.read(tmp_path / "out.wav")
    assert sound.shape == (round(4.95 * rate), 2)
    assert np.sqrt(np.mean(sound**2)) > 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.wav", "song.mid", "style.wav"]
