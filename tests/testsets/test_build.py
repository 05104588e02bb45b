"""Test sets are rendered anew from git: the same bits where the sources, FluidSynth and, for recordings, the processor
are the same."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from timbreflow.data.manifest import read_manifest, write_clip_notes, write_manifest, write_table
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips
from timbreflow.files import sha256_file
from timbreflow.notes.tables import Notes
from timbreflow.rendering.sampler import INSTRUMENTS
from timbreflow.rendering.synthesizer import fluidsynth_version
from timbreflow.rendering.triples import Segment
from timbreflow.stages.layout import Layout
from timbreflow.testsets import sources as testset_sources
from timbreflow.testsets.build import build, render_clips
from timbreflow.testsets.frozen import (
    SOUND_SCHEMA,
    TEST_SETS,
    compare_sound,
    digest_of_sound,
    read_checksums,
    read_released,
    write_checksums,
)
from timbreflow.testsets.sources import check_sources
from timbreflow.testsets.windows import Deck, Window

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "released" / "testsets"
LAYOUT = Layout(ROOT)


def _require_sources(name: str) -> dict[str, Path]:
    """Paths of a set's sources; skips where they are not on this machine: 30 to 300 MB are not fetched by a test."""
    checksums = read_checksums(RELEASED)[name]
    for source in checksums.sources:
        here = list(LAYOUT.soundfonts.glob(f"{source}.sf?")) or (LAYOUT.corpora / source).is_dir()
        if source != "TimGM6mb" and not here:
            pytest.skip(f"{source} is not on this machine; run `timbreflow corpus fetch {source}`")
    if name != "real" and fluidsynth_version() != checksums.fluidsynth:
        pytest.skip(f"FluidSynth is {fluidsynth_version()}; the checksums hold for {checksums.fluidsynth}")
    return check_sources(checksums.sources, LAYOUT, say=print)


@pytest.mark.parametrize("name", ["artificial", "real"])
def test_two_clips_rendered_anew_sound_like_those_in_git(name: str) -> None:
    paths = _require_sources(name)
    released = read_released(RELEASED, name)
    rows = released.manifest
    chosen = [str(rows["clip_id"].iloc[0]), str(rows.sort_values("n_effects")["clip_id"].iloc[-1])]
    rendered = render_clips(released, chosen, paths)
    _, distances = compare_sound(released, ((clip_id, flac) for clip_id, (_, flac) in rendered.items()))
    # Recordings are resampled, which processors round differently.
    assert max(distances.values(), default=0.0) <= (0.05 if name == "real" else 0.0)
    gains = rows.set_index("clip_id")["gain_db"]
    for clip_id, (clip, _) in rendered.items():
        assert clip.gain_db == pytest.approx(gains[clip_id], abs=0.1 if name == "real" else 1e-3)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The first triple of `real` as a release of its own, with the bits that this processor renders."""
    paths = _require_sources("real")
    released = read_released(RELEASED, "real")
    rows = released.manifest[released.manifest["triple_id"] == released.manifest["triple_id"].iloc[0]]
    sources = {name: released.checksums.sources[name] for name in sorted(set(rows["soundfont"]))}
    folder = tmp_path / "released" / "real"
    write_manifest(folder, rows)
    notes = pd.read_parquet(RELEASED / "real" / "clip_notes.parquet")
    write_clip_notes(folder, notes[notes["clip_id"].isin(rows["clip_id"])])
    rendered = render_clips(released, list(rows["clip_id"]), paths)
    by_clip, _ = compare_sound(released, ((clip_id, flac) for clip_id, (_, flac) in rendered.items()))
    sound = released.sound.loc[sorted(by_clip)].assign(sha256=pd.Series(by_clip))
    _release(folder, sound.reset_index(), sources, shard="0" * 64)
    return tmp_path / "released"


def _release(folder: Path, sound: pd.DataFrame, sources: dict[str, str], *, shard: str) -> None:
    write_table(folder / "sound.parquet", sound, SOUND_SCHEMA)
    files = {"manifest": "manifest", "clip_notes": "clip_notes", "sound_table": "sound"}
    base = read_checksums(RELEASED)["real"]
    changed = {field: sha256_file(folder / f"{stem}.parquet") for field, stem in files.items()}
    digest = digest_of_sound(dict(zip(sound["clip_id"], sound["sha256"], strict=True)))
    checksums = dataclasses.replace(base, **changed, sound=digest, shard=shard, sources=sources, triples=1)
    write_checksums(folder.parent, {"real": checksums})


def test_a_built_set_opens_for_evaluation(small: Path, tmp_path: Path) -> None:
    lines = []
    (built,) = build([], layout=LAYOUT, released=small, out=tmp_path / "out", say=lines.append)
    assert not built.distances and built.sound == read_checksums(small)["real"].sound
    assert "equal to those in git" in lines[-1] and "real: 1 triples" in lines[-1]
    clips = EvaluationClips(tmp_path / "out" / "real", "real", sample_rate=16000, max_triples=0)
    (batch,) = clips.batches(4)
    assert batch.target.shape == (1, 128000) and len(batch.notes[0]) >= 4
    # The manifest in git counts the offsets of the whole set's tar; the built one those of its own.
    assert read_manifest(tmp_path / "out" / "real")["offset"].max() < 3 * 300_000


def test_what_is_built_already_is_not_rendered_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = build(["real"], layout=LAYOUT, released=small, out=tmp_path / "out", say=print)
    released = read_released(small, "real")
    shard = sha256_file(first.folder / "real" / "shard-00000.tar")
    _release(small / "real", released.sound.reset_index(), released.checksums.sources, shard=shard)
    monkeypatch.setattr("timbreflow.testsets.build.render_clips", None)
    lines = []
    (second,) = build(["real"], layout=LAYOUT, released=small, out=tmp_path / "out", say=lines.append)
    assert "here already" in lines[0] and second.sound == first.sound


def test_other_bits_pass_when_they_sound_alike_and_fail_when_they_do_not(small: Path, tmp_path: Path) -> None:
    released = read_released(small, "real")
    sources = dict(released.checksums.sources)
    sound = released.sound.reset_index()
    sound.loc[0, "sha256"] = "f" * 64
    _release(small / "real", sound, sources, shard="0" * 64)
    (built,) = build(["real"], layout=LAYOUT, released=small, out=tmp_path / "out", say=print)
    assert max(built.distances.values()) < 0.05 and "1 of 3 clips differ in bits" in built.summary

    louder = np.frombuffer(sound.loc[0, "fingerprint"], "<f2").astype(np.float32) + 1.0
    sound.at[0, "fingerprint"] = louder.astype("<f2").tobytes()
    _release(small / "real", sound, sources, shard="0" * 64)
    with pytest.raises(TimbreflowError, match=r"1 of 3 clips .* more than 0\.5 dB .*FluidSynth"):
        build(["real"], layout=LAYOUT, released=small, out=tmp_path / "other", say=print)
    assert not list((tmp_path / "other").glob("**/*.tar")), "a wrong set leaves nothing behind"


def test_missing_sources_are_fetched_with_a_line_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, lines = [], []

    def refuse(name: str, root: Path) -> None:
        asked.append(name)
        raise TimbreflowError("npm is not on this machine; install Node.js to fetch recordings.")

    monkeypatch.setattr(testset_sources, "fetch", refuse)
    with pytest.raises(TimbreflowError, match="timbreflow corpus fetch tonejs-flute"):
        check_sources({"tonejs-flute": "0" * 64}, Layout(tmp_path), say=lines.append)
    assert asked == ["tonejs-flute"] and "fetching" in lines[0]


def test_another_file_under_the_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "soundfonts").mkdir(parents=True)
    (tmp_path / "data" / "soundfonts" / "A320U.sf2").write_bytes(b"RIFF")
    with pytest.raises(TimbreflowError, match="test sets were made with"):
        check_sources({"A320U": "0" * 64}, Layout(tmp_path), say=print)


def test_every_source_in_git_has_a_way_to_be_fetched() -> None:
    from timbreflow.notes.sources.catalogue import CATALOGUE

    files = {Path(corpus.inside).stem for corpus in CATALOGUE.values() if corpus.kind == "soundfont"}
    for name in TEST_SETS:
        for source in read_checksums(RELEASED)[name].sources:
            assert source in files or (source in INSTRUMENTS and source in CATALOGUE)


def _window(piece: str, start: float, low: int = 60) -> Window:
    notes = Notes.of([0.0, 2.0, 4.0, 6.0], [1.0] * 4, [low, low + 2, low + 4, low + 5], [90] * 4)
    return Window(Segment(piece, 0, -1, start, 0), notes, 1.0, float(notes.pitch.mean()))


def test_windows_are_dealt_once_and_from_all_pieces_in_turn() -> None:
    windows = [_window("long", 8.0 * n) for n in range(9)] + [_window("short", 0.0), _window("other", 0.0)]
    deck = Deck(windows, "seed")
    dealt = [deck.deal("a test") for _ in range(len(windows))]
    assert {window.segment.piece_id for window in dealt[:3]} == {"long", "short", "other"}
    assert len({window.segment for window in dealt}) == len(windows)
    with pytest.raises(TimbreflowError, match="too few windows for a test"):
        deck.deal("a test")


def test_partners_come_from_another_piece_and_the_nearest_range() -> None:
    content = _window("a", 0.0, low=60)
    deck = Deck([_window("a", 8.0, low=60), _window("b", 0.0, low=84), _window("c", 0.0, low=61)], "seed")
    assert deck.deal_partner(content, "a test").segment.piece_id == "c"


def test_the_order_of_dealing_depends_on_the_windows_alone() -> None:
    windows = [_window(piece, 8.0 * n) for piece in "abc" for n in range(4)]
    one, other = Deck(windows, "seed"), Deck(windows[::-1], "seed")
    assert [one.deal("x").segment for _ in windows] == [other.deal("x").segment for _ in windows]
