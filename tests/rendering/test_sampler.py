from pathlib import Path

import numpy as np
import pytest
import soundfile

from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import Notes
from timbreflow.rendering.clips import PEAK, RMS_DBFS
from timbreflow.rendering.sampler import (
    ATTACK_DB,
    INSTRUMENTS,
    Instrument,
    Sampler,
    list_recordings,
    recorded_pitch,
    render_sampled,
)
from timbreflow.rendering.timbres import Layer, Timbre
from timbreflow.rendering.triples import ClipRecipe, Segment

RATE = 16000
FLUTE = "tonejs-flute"


def _hertz(pitch: float) -> float:
    return 440 * 2 ** ((pitch - 69) / 12)


def _record(
    folder: Path, stem: str, pitch: float, *, swell: float = 0.5, silence: float = 0.2, rate: int = 44100
) -> None:
    """A recording as npm's packages hold: some silence, a slow attack, four seconds of tone."""
    time = np.arange(4 * rate) / rate
    tone = np.minimum(time / swell, 1) * 0.5 * np.sin(2 * np.pi * _hertz(pitch) * time)
    soundfile.write(folder / f"{stem}.mp3", np.concatenate([np.zeros(round(silence * rate)), tone]), rate)


@pytest.fixture
def flute(tmp_path: Path) -> Sampler:
    for stem, pitch in (("C5", 72), ("As4", 70), ("A5", 81)):
        _record(tmp_path, stem, pitch)
    return Sampler({FLUTE: tmp_path}, sample_rate=RATE)


def _pitch_of(audio: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 8 * len(audio)))
    return 69 + 12 * np.log2(np.argmax(spectrum) * RATE / (8 * len(audio)) / 440)


def test_names_of_files_are_scientific_pitches() -> None:
    names = ("C4", "As3", "Fs1", "C8", "B-1", "F2 v2", "H4", "README")
    assert [recorded_pitch(stem) for stem in names] == [60, 58, 30, 108, 11, None, None, None]


@pytest.mark.parametrize("pitch", [69, 71, 72, 75, 78, 81, 84])
def test_every_pitch_in_reach_sounds_at_that_pitch(flute: Sampler, pitch: float) -> None:
    assert flute.reaches(FLUTE, pitch)
    audio = flute.play(Notes.of([0.0], [1.5], [pitch], [100]), FLUTE, seconds=2.0)
    assert _pitch_of(audio[RATE // 4 : RATE]) == pytest.approx(pitch, abs=0.05)


def test_pitches_out_of_reach_or_range_are_refused(flute: Sampler) -> None:
    assert [flute.reaches(FLUTE, pitch) for pitch in (66, 67, 76, 85)] == [False, True, False, False]
    assert INSTRUMENTS[FLUTE].highest < 100 and not flute.reaches(FLUTE, 100)


def test_a_slow_attack_reaches_its_level_at_the_onset(flute: Sampler) -> None:
    audio = flute.play(Notes.of([1.0], [2.0], [72], [127]), FLUTE, seconds=4.0)
    reached = np.argmax(np.abs(audio) >= 10 ** (ATTACK_DB / 20)) / RATE
    assert reached == pytest.approx(1.0, abs=0.002)
    assert np.max(np.abs(audio[: round(0.96 * RATE)])) == 0, "the silence before the attack is cut away"


def test_notes_end_and_louder_velocities_are_louder(flute: Sampler) -> None:
    def loudest(velocity: int, *, first: float = 0.0, last: float = 2.0) -> float:
        audio = flute.play(Notes.of([0.0], [1.0], [72], [velocity]), FLUTE, seconds=2.0)
        return np.max(np.abs(audio[round(first * RATE) : round(last * RATE)]))

    assert loudest(64, last=1.0) == pytest.approx(loudest(127, last=1.0) * (64 / 127) ** 2, rel=1e-3)
    assert loudest(127, first=1.2) == 0


def test_a_corrected_recording_serves_its_true_pitch(tmp_path: Path) -> None:
    instrument = INSTRUMENTS["tonejs-trumpet"]
    for stem, pitch in (("C3", 60), ("As3", 70), ("G4", 67)):
        _record(tmp_path, stem, pitch, rate=22050)
    assert {pitch: path.stem for pitch, path in list_recordings(tmp_path, instrument).items()} == {
        60: "C3",
        67: "G4",
        70: "As3",
    }


def test_clips_have_the_level_of_all_clips_and_unplayable_ones_are_none(flute: Sampler) -> None:
    timbre = Timbre((Layer(FLUTE, 0, 73, 0.0),), None, (), None)
    recipe = ClipRecipe("t", "target", Segment("p", 0, -1, 0.0, 0), timbre, 4.0)
    clip = render_sampled(recipe, Notes.of([0.0, 1.0], [1.0, 2.0], [70, 74], [90, 90]), flute)
    assert clip is not None and len(clip.audio) == 4 * RATE and clip.audio.dtype == np.float32
    assert 20 * np.log10(clip.rms) == pytest.approx(RMS_DBFS, abs=0.01) or clip.peak == pytest.approx(PEAK)
    assert render_sampled(recipe, Notes.of([0.0], [1.0], [50], [90]), flute) is None


def test_bad_folders_and_names_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="no recordings named by their notes"):
        Sampler({FLUTE: tmp_path}, sample_rate=RATE)
    with pytest.raises(TimbreflowError, match="kazoo"):
        Sampler({"kazoo": tmp_path}, sample_rate=RATE)
    soundfile.write(tmp_path / "C5.mp3", np.zeros(RATE), RATE)
    with pytest.raises(TimbreflowError, match="silent"):
        Sampler({FLUTE: tmp_path}, sample_rate=RATE).play(Notes.of([0.0], [1.0], [72], [90]), FLUTE, seconds=1.0)


def test_it_plays_the_instruments_it_is_given(tmp_path: Path) -> None:
    _record(tmp_path, "C5", 72)
    with pytest.raises(TimbreflowError, match="kazoo is no instrument"):
        Sampler({"kazoo": tmp_path}, sample_rate=RATE)
    sampler = Sampler({"kazoo": tmp_path}, sample_rate=RATE, instruments={"kazoo": Instrument(75, 71, 80, False)})
    assert [pitch for pitch in range(128) if sampler.reaches("kazoo", pitch)] == [71, 72, 73, 74, 75]
