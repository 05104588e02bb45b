import dataclasses
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import Notes
from timbreflow.rendering.clips import FADE_SECONDS, PEAK, RMS_DBFS, render_recipe
from timbreflow.rendering.config import (
    PerformanceConfig,
    RenderConfig,
    SoundFontSpec,
    SplitFractions,
    TimbreConfig,
    TripleCounts,
)
from timbreflow.rendering.effect_settings import RANGES, all_settings
from timbreflow.rendering.programs import PITCHED_PROGRAMS
from timbreflow.rendering.soundfonts import BUNDLED, Preset
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.timbres import Layer, Palette, Timbre
from timbreflow.rendering.triples import ClipRecipe, Segment, SegmentPool, draw_triple, segment_notes

CONFIG = RenderConfig(
    seed=3,
    sample_rate=16000,
    clip_seconds=2.0,
    min_onsets=3,
    transposition=5,
    performance=PerformanceConfig(tempo=0.0, velocity=0),
    complete_squares=False,
    triples_per_shard=4,
    soundfonts=(SoundFontSpec(BUNDLED, "", "train"),),
    triples=TripleCounts(train=8, validation=2, test=2, test_seen=2),
    splits=SplitFractions(validation_pieces=0.1, test_pieces=0.1, test_programs=0.1, test_effects=0.1),
    timbre=TimbreConfig(0.3, 3, 0.5, 0.3, (0.35, 0.4, 0.2, 0.05)),
)
PALETTE = Palette(
    tuple(Preset(BUNDLED, 0, program, "") for program in PITCHED_PROGRAMS),
    frozenset(setting for name in RANGES for setting in all_settings(name)),
)
DRY = Timbre((Layer(BUNDLED, 0, 19, 0.0),), None, (), None)


class Tables(SimpleNamespace):
    """Note tables in memory, with the two things that a pool asks for."""

    def notes(self, piece_id: str, track: int) -> Notes:
        found: Notes = self.of[piece_id, track]
        return found


def tables(n_pieces: int = 6, *, seconds: float = 30.0, n_tracks: int = 2) -> Tables:
    notes, rows = {}, []
    for piece in range(n_pieces):
        for track in range(n_tracks):
            rng = np.random.default_rng([piece, track])
            onsets = np.arange(0, seconds, 0.4)
            low = 36 + 24 * track
            pitches = rng.integers(low, low + 12, len(onsets))
            notes[f"{piece:016x}", track] = Notes.of(onsets, [0.5] * len(onsets), pitches, [80] * len(onsets))
            rows.append((f"{piece:016x}", track, (-1, 40)[track % 2], False, len(onsets)))
        rows.append((f"{piece:016x}", n_tracks, 0, True, 500))
        rows.append((f"{piece:016x}", n_tracks + 1, 120, False, 500))
    columns = ["piece_id", "track", "program", "is_drum", "n_notes"]
    return Tables(of=notes, tracks=pd.DataFrame(rows, columns=columns))


def pool(found: Tables) -> SegmentPool:
    return SegmentPool(found, sorted({piece for piece, _ in found.of}), CONFIG)  # type: ignore[arg-type]


def draw(number: int, *, split: str = "train", attempt: int = 0, found: Tables | None = None) -> dict[str, ClipRecipe]:
    pieces = "test" if split.startswith("test") else split
    made = pool(found or tables())
    return draw_triple(made, PALETTE, CONFIG, split=split, pieces=pieces, number=number, attempt=attempt)


@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, 10**6))
def test_a_triple_is_true(number: int) -> None:
    # One register: where pieces share none, notes B may come from another place of the same piece.
    triple = draw(number, found=tables(n_tracks=1))
    content, style, target = triple.values()
    assert (content.segment, target.timbre) == (target.segment, style.timbre)
    assert content.timbre.timbre_id != style.timbre.timbre_id
    assert content.segment.piece_id != style.segment.piece_id
    assert {content.segment.track, style.segment.track} == {0}
    assert max(abs(content.segment.transposition), abs(style.segment.transposition)) <= 5
    assert len({clip.clip_id for clip in triple.values()}) == 3


def test_a_recipe_depends_on_its_number_alone() -> None:
    first = [draw(number) for number in range(20)]
    again = [draw(number) for number in reversed(range(20))][::-1]
    assert first == again
    assert len({clip.clip_id for triple in first for clip in triple.values()}) == 60
    assert draw(0, attempt=1) != draw(0)


def test_performances_vary_within_their_limits_and_only_where_asked() -> None:
    varied = replace(CONFIG, performance=PerformanceConfig(tempo=0.25, velocity=10))
    made = SegmentPool(tables(), sorted({piece for piece, _ in tables().of}), varied)  # type: ignore[arg-type]
    drawn = [draw_triple(made, PALETTE, varied, split="train", pieces="train", number=n, attempt=0) for n in range(80)]
    tempi = np.array([clip.segment.tempo for triple in drawn for clip in (triple["content"], triple["style"])])
    velocities = np.array([clip.segment.velocity for triple in drawn for clip in (triple["content"], triple["style"])])
    assert all(triple["content"].segment == triple["target"].segment for triple in drawn)
    assert 0.8 <= tempi.min() < 0.85 < 1.2 < tempi.max() <= 1.25
    assert abs(np.log(tempi).mean()) < 0.05
    assert (velocities.min(), velocities.max()) == (-10, 10)
    assert {(clip.segment.tempo, clip.segment.velocity) for n in range(20) for clip in draw(n).values()} == {(1.0, 0)}


def test_a_faster_segment_holds_more_of_the_piece() -> None:
    made = Notes.of([0.0, 1.0, 2.0, 2.4, 2.9], [0.5, 0.5, 0.5, 0.5, 0.5], [60, 62, 64, 65, 67], [20, 60, 100, 120, 9])
    found = Tables(of={("p", 0): made})
    plain = segment_notes(found, Segment("p", 0, -1, 0.0, 0), 2.0)  # type: ignore[arg-type]
    fast = segment_notes(found, Segment("p", 0, -1, 0.0, 0, 1.25, 10), 2.0)  # type: ignore[arg-type]
    assert plain.pitch.tolist() == [60, 62]
    assert fast.onset.tolist() == pytest.approx([0.0, 0.8, 1.6, 1.92])
    assert fast.duration.tolist() == pytest.approx([0.4, 0.4, 0.4, 0.08], abs=1e-6)
    assert fast.velocity.tolist() == [30, 70, 110, 127]


def test_test_and_test_seen_share_their_notes_only() -> None:
    for number in range(10):
        unseen, seen = draw(number, split="test"), draw(number, split="test_seen")
        assert unseen.content.segment == seen.content.segment
        assert unseen.style.segment == seen.style.segment
        assert unseen.target.timbre != seen.target.timbre
        assert unseen.target.clip_id != seen.target.clip_id


def test_partners_overlap_in_pitch_where_they_can() -> None:
    triples = [draw(number) for number in range(60)]
    same_register = [t.content.segment.track == t.style.segment.track for t in triples]
    assert np.mean(same_register) > 0.8


def test_one_track_gives_disjoint_segments_or_none() -> None:
    long = tables(1, n_tracks=1)
    for number in range(20):
        triple = draw(number, found=long)
        assert abs(triple["content"].segment.start - triple["style"].segment.start) >= CONFIG.clip_seconds
    with pytest.raises(TimbreflowError, match="no two disjoint segments.*collect more music"):
        draw(0, found=tables(1, seconds=2.2, n_tracks=1))
    assert pool(long).holds_pair()
    assert not pool(tables(1, seconds=2.2, n_tracks=1)).holds_pair()
    assert not pool(tables(1, seconds=0.5)).holds_pair()


@given(
    notes=st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 40), st.integers(0, 127), st.integers(1, 127)), max_size=30
    ),
    transposition=st.integers(-5, 5),
)
def test_no_pitch_sounds_twice_at_once(notes: list[tuple[int, int, int, int]], transposition: int) -> None:
    columns = list(zip(*notes, strict=True)) or [(), (), (), ()]
    made = Notes.of([t / 10 for t in columns[0]], [d / 10 for d in columns[1]], columns[2], columns[3])
    segment = Segment("p", 0, -1, 1.0, transposition)
    sounding = segment_notes(Tables(of={("p", 0): made}), segment, 2.0)  # type: ignore[arg-type]
    assert (np.diff(sounding.onset) >= 0).all()
    ends = sounding.onset.astype(float) + sounding.duration
    assert (ends <= 2.0 + 1e-5).all()
    for pitch in set(sounding.pitch.tolist()):
        mine = sounding.pitch == pitch
        assert (ends[mine][:-1] <= sounding.onset[mine][1:] + 1e-6).all()
        assert (np.diff(sounding.onset[mine]) > 0).all()
    expected = {
        (round(t - 1.0, 5), p + transposition)
        for t, _, p, _ in ((float(np.float32(t / 10)), d, p, v) for t, d, p, v in notes)
        if 1.0 <= t < 3.0
    }
    found = {(round(float(t), 5), int(p)) for t, p in zip(sounding.onset, sounding.pitch, strict=True)}
    assert len(found) == len({(t, p) for t, p in expected if 0 <= p <= 127})


def test_loudness_fade_and_silence(synthesizer: Synthesizer) -> None:
    recipe = ClipRecipe("t", "content", Segment("p", 0, -1, 0.0, 0), DRY, 2.0)
    held = Notes.of([0.0], [2.0], [60], [100])
    clip = render_recipe(recipe, held, synthesizer)
    assert clip is not None
    assert 20 * np.log10(clip.rms) == pytest.approx(RMS_DBFS, abs=0.01)
    assert clip.audio.dtype == np.float32
    assert clip.peak == pytest.approx(np.max(np.abs(clip.audio)))
    assert clip.audio[-1] == 0
    assert np.abs(clip.audio[-round(2 * FADE_SECONDS * 16000) : -round(FADE_SECONDS * 16000)]).max() > 0.05
    click = Notes.of([0.5], [0.01], [100], [127])
    sparse = render_recipe(
        ClipRecipe("t", "content", recipe.segment, Timbre((Layer(BUNDLED, 0, 9, 0.0),), None, (), None), 2.0),
        click,
        synthesizer,
    )
    assert sparse is not None
    assert sparse.peak <= PEAK + 1e-6
    assert render_recipe(recipe, Notes.of([], [], [], []), synthesizer) is None


def test_a_clip_with_a_silent_key_is_refused(synthesizer: Synthesizer) -> None:
    sax = Timbre((Layer(BUNDLED, 0, 65, 0.0),), None, (), None)
    recipe = ClipRecipe("t", "content", Segment("p", 0, -1, 0.0, 0), sax, 1.0)
    assert render_recipe(recipe, Notes.of([0, 0.3], [0.3, 0.3], [63, 65], [90, 90]), synthesizer) is not None
    assert render_recipe(recipe, Notes.of([0, 0.3], [0.3, 0.3], [63, 64], [90, 90]), synthesizer) is None


def test_rendering_in_any_order_gives_the_same_bits(synthesizer: Synthesizer) -> None:
    found = tables()
    recipes = [clip for number in range(4) for clip in draw(number, found=found).values()]

    def render(recipe: ClipRecipe, made: Synthesizer) -> bytes:
        clip = render_recipe(recipe, segment_notes(found, recipe.segment, 2.0), made)  # type: ignore[arg-type]
        return b"" if clip is None else clip.audio.tobytes()

    forwards = [render(recipe, synthesizer) for recipe in recipes]
    backwards = [render(recipe, synthesizer) for recipe in recipes[::-1]][::-1]
    assert forwards == backwards
    assert sum(len(audio) > 0 for audio in forwards) >= 9


def test_a_manifest_row_holds_the_whole_recipe(tmp_path: Path) -> None:
    for number in range(10):
        for clip in draw(number).values():
            segment = clip.segment
            row = {
                "triple_id": clip.triple_id,
                "role": clip.role,
                "piece_id": segment.piece_id,
                "track": segment.track,
                "start": np.float32(segment.start),
                "transposition": segment.transposition,
                "timbre": clip.timbre.to_text(),
                "duration": np.float32(clip.seconds),
            }
            assert ClipRecipe.from_row(row).clip_id == clip.clip_id


def test_a_counterpart_closes_the_square_of_training_triples_alone() -> None:
    config = dataclasses.replace(CONFIG, complete_squares=True)
    made = pool(tables())
    triple = draw_triple(made, PALETTE, config, split="train", pieces="train", number=3, attempt=0)
    assert triple["counterpart"].segment == triple["style"].segment
    assert triple["counterpart"].timbre == triple["content"].timbre
    assert len({clip.clip_id for clip in triple.values()}) == 4
    assert list(draw(3).values()) == list(triple.values())[:3], "the fourth clip changes none of the others"
    test = draw_triple(made, PALETTE, config, split="test", pieces="test", number=3, attempt=0)
    assert "counterpart" not in test
