"""Laws of pitch distance and onset F1, and the transcriber on a real render."""

import warnings

import numpy as np
import pretty_midi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.onsets import note_score, onset_f1
from timbreflow.metrics.pitch import jaccard_distance, pitch_distance
from timbreflow.metrics.transcription import Posteriorgrams, Transcriber, notes_from_posteriorgrams
from timbreflow.notes.tables import Notes

RATE = 16_000
NOBODY = Notes.of([], [], [], [])
rolls = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((128, 6)) < 0.03)
notes_lists = st.lists(
    st.tuples(st.floats(0, 7), st.floats(0.05, 1), st.integers(30, 90)),
    min_size=1,
    max_size=15,
    unique_by=lambda n: n[2],
).map(lambda rows: Notes.of(*(list(column) for column in zip(*rows, strict=True)), [80] * len(rows)))


@settings(max_examples=40, deadline=None)
@given(rolls, rolls)
def test_jaccard_distance_is_a_bounded_symmetric_distance(a: np.ndarray, b: np.ndarray) -> None:
    assert 0.0 <= jaccard_distance(a, b) <= 1.0
    assert jaccard_distance(a, b) == pytest.approx(jaccard_distance(b, a))
    assert jaccard_distance(a, a) == 0.0


def test_jaccard_distance_of_known_frames() -> None:
    a, b = np.zeros((128, 4), bool), np.zeros((128, 4), bool)
    a[60, 0] = b[60, 0] = b[64, 0] = True  # half of the union agrees
    a[60, 1] = True  # one sounds, one is silent: 1
    a[60, 2], b[61, 2] = True, True  # nothing in common: 1
    assert jaccard_distance(a, b) == pytest.approx((0.5 + 1 + 1 + 0) / 4)  # both silent: 0
    with pytest.raises(TimbreflowError):
        jaccard_distance(a, b[:, :3])


def test_pitch_distance_counts_time() -> None:
    long, half = Notes.of([0.0], [2.0], [60], [90]), Notes.of([0.0], [1.0], [60], [90])
    assert pitch_distance(half, long, duration=2.0) == pytest.approx(0.5, abs=0.01)
    assert pitch_distance(half, long, duration=4.0) == pytest.approx(0.25, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(notes_lists)
def test_true_notes_score_one_and_other_pitches_zero(notes: Notes) -> None:
    assert onset_f1(notes, notes) == pytest.approx(1.0)
    # True pitches are drawn from 30 to 90.
    elsewhere = np.full_like(notes.pitch, 100)
    assert onset_f1(Notes(notes.onset, notes.duration, elsewhere, notes.velocity), notes) == 0.0
    assert onset_f1(Notes.of([], [], [], []), notes) == 0.0


def test_onsets_within_50_ms_count_and_durations_do_not() -> None:
    truth = Notes.of([1.0, 2.0], [0.5, 0.5], [60, 64], [90, 90])
    assert onset_f1(Notes.of([1.04, 1.96], [3.0, 0.01], [60, 64], [9, 9]), truth) == pytest.approx(1.0)
    assert onset_f1(Notes.of([1.08, 2.0], [0.5, 0.5], [60, 64], [90, 90]), truth) == pytest.approx(0.5)
    assert onset_f1(Notes.of([1.0, 2.0], [0.5, 0.5], [61, 64], [90, 90]), truth) == pytest.approx(0.5)
    assert onset_f1(NOBODY, NOBODY) == 1.0
    with warnings.catch_warnings(action="error"):  # mir_eval has one for empty lists
        assert onset_f1(truth, NOBODY) == onset_f1(NOBODY, truth) == 0.0
    late = Notes.of([1.06, 2.06], [0.5, 0.5], [60, 64], [90, 90])
    assert onset_f1(late, truth) == 0.0
    assert onset_f1(late, truth, tolerance=0.1) == pytest.approx(1.0)


def test_one_note_too_many_and_one_too_few_cost_the_same() -> None:
    one, two = Notes.of([1.0], [0.5], [60], [90]), Notes.of([1.0, 2.0], [0.5, 0.5], [60, 64], [90, 90])
    assert onset_f1(one, two) == onset_f1(two, one) == pytest.approx(2 / 3)


def test_notes_without_duration_or_before_the_start_are_compared_too() -> None:
    truth = Notes.of([0.0, 1.0], [0.5, 0.0], [60, 64], [90, 90])
    assert onset_f1(Notes.of([-0.02, 1.0], [0.5, -0.1], [60, 64], [90, 90]), truth) == pytest.approx(1.0)


def test_note_score_divides_by_the_better_ceiling() -> None:
    with np.errstate(all="raise"):
        scores = note_score(np.array([0.4, 0.4, 0.1]), np.array([0.5, 0.2, 0.0]), np.array([0.3, 0.8, 0.0]))
    np.testing.assert_allclose(scores, [0.8, 0.5, 0.0])


def scale(program: int) -> tuple[np.ndarray, Notes]:
    """A C major scale of half a second a note, rendered by FluidSynth, and its notes."""
    music = pretty_midi.PrettyMIDI()
    instrument = pretty_midi.Instrument(program)
    pitches = [60, 62, 64, 65, 67, 69, 71, 72]
    onsets = [0.5 * i for i in range(8)]
    instrument.notes = [pretty_midi.Note(100, p, t, t + 0.45) for p, t in zip(pitches, onsets, strict=True)]
    music.instruments.append(instrument)
    sound = music.fluidsynth(fs=RATE).astype(np.float32)[: 4 * RATE]
    return sound, Notes.of(onsets, [0.45] * 8, pitches, [100] * 8)


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber()


@pytest.mark.parametrize("program", [0, 73])
def test_a_rendered_scale_is_heard(transcriber: Transcriber, program: int) -> None:
    sound, truth = scale(program)
    heard = transcriber.transcribe([sound], RATE)[0]
    assert onset_f1(heard, truth) > 0.75
    assert pitch_distance(heard, truth, duration=4.0) < 0.4


def test_batches_change_nothing_and_lengths_may_differ(transcriber: Transcriber) -> None:
    sound, _ = scale(0)
    together = transcriber.transcribe([sound, sound[: 3 * RATE // 2], sound[:50]], RATE)
    alone = transcriber.transcribe([sound[: 3 * RATE // 2]], RATE)[0]
    np.testing.assert_allclose(together[1].onset, alone.onset, atol=1e-6)
    np.testing.assert_array_equal(together[1].pitch, alone.pitch)
    assert len(together[2]) == 0
    assert transcriber.transcribe([], RATE) == []


def test_times_of_frames_do_not_drift_over_windows(transcriber: Transcriber) -> None:
    heard = transcriber.posteriorgrams([np.zeros(30 * RATE, np.float32)], RATE)[0]
    steps = np.diff(heard.times)
    assert heard.note.shape == heard.onset.shape == (len(heard.times), 88)
    assert heard.times[-1] == pytest.approx(30.0, abs=0.02)
    assert steps.min() > 0
    assert steps.max() < 0.012


def test_silence_has_no_notes_and_nan_is_refused(transcriber: Transcriber) -> None:
    assert len(transcriber.transcribe([np.zeros(RATE, np.float32)], RATE)[0]) == 0
    with pytest.raises(TimbreflowError):
        transcriber.transcribe([np.full(RATE, np.nan, np.float32)], RATE)


def grams(note: np.ndarray, onset: np.ndarray) -> Posteriorgrams:
    return Posteriorgrams(note.astype(np.float32), onset.astype(np.float32), np.arange(len(note)) * 0.01)


def created(heard: Posteriorgrams) -> list[tuple[float, float, int]]:
    notes = notes_from_posteriorgrams(heard, note_threshold=0.3, onset_threshold=0.5, shortest_note=11)
    rows = zip(notes.onset, notes.duration, notes.pitch, strict=True)
    return [(round(float(onset), 2), round(float(duration), 2), int(pitch)) for onset, duration, pitch in rows]


def test_notes_begin_at_onset_peaks_and_end_where_energy_leaves() -> None:
    note, onset = np.zeros((100, 88)), np.zeros((100, 88))
    note[10:40, 39] = note[40:70, 39] = 0.8
    note[10:70, 40] = 0.4  # leakage into the neighbour is taken away with the note
    onset[10, 39] = onset[40, 39] = 0.9
    assert created(grams(note, onset)) == [(0.1, 0.3, 60), (0.4, 0.3, 60)]


def test_energy_without_an_onset_becomes_a_note_and_blips_do_not() -> None:
    note, onset = np.zeros((100, 88)), np.zeros((100, 88))
    # Risen too slowly to be an onset.
    note[:60, 20] = np.minimum(np.arange(60) / 40, 0.7)
    note[70:78, 60] = 0.9
    onset[70, 60] = 0.8
    notes = created(grams(note, onset))
    assert [pitch for _, _, pitch in notes] == [41]
    assert notes[0][0] == pytest.approx(0.12, abs=0.02)
