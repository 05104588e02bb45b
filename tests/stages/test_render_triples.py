import dataclasses
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sharded import run_all
from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import read_clip_notes, read_manifest, triple_positions
from timbreflow.data.shards import AudioShards
from timbreflow.data.splits import effect_split, piece_split, timbre_palette
from timbreflow.data.triples import ClipNotes
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, sha256_file
from timbreflow.notes.tables import NOTES, PIECES, TRACKS, Notes, NoteTables, table_file
from timbreflow.rendering.clips import render_recipe
from timbreflow.rendering.config import (
    PerformanceConfig,
    RenderConfig,
    SoundFontSpec,
    SplitFractions,
    TimbreConfig,
    TripleCounts,
)
from timbreflow.rendering.soundfonts import BUNDLED, bundled_soundfont, list_all_presets
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.timbres import Timbre
from timbreflow.rendering.triples import ClipRecipe
from timbreflow.stages import render_triples as stage
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult

CONFIG = RenderConfig(
    seed=1,
    sample_rate=16000,
    clip_seconds=1.0,
    min_onsets=2,
    transposition=5,
    performance=PerformanceConfig(tempo=0.2, velocity=20),
    complete_squares=False,
    triples_per_shard=6,
    soundfonts=(SoundFontSpec(BUNDLED, sha256_file(bundled_soundfont()), "train"),),
    triples=TripleCounts(train=24, validation=4, test=8, test_seen=8),
    splits=SplitFractions(validation_pieces=0.25, test_pieces=0.25, test_programs=0.15, test_effects=0.25),
    timbre=TimbreConfig(0.5, 3, 0.5, 0.3, (0.1, 0.4, 0.3, 0.2)),
)


def write_notes(folder: Path, n_pieces: int = 16) -> None:
    folder.mkdir(parents=True)
    pieces, tracks, notes = [], [], []
    for number in range(n_pieces):
        rng = np.random.default_rng(number)
        piece_id = hashlib.sha256(str(number).encode()).hexdigest()[:16]
        for track in range(2):
            onsets = np.arange(0, 12, 0.25)
            made = Notes.of(onsets, rng.uniform(0.1, 0.6, 48), rng.integers(50, 76, 48), rng.integers(60, 110, 48))
            tracks.append((piece_id, track, (-1, 0, 40, 73)[number % 4], False, "", 48, 62.0, 1.0))
            columns = (made.onset, made.duration, made.pitch, made.velocity)
            notes += [(piece_id, track, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        pieces.append((piece_id, "test", f"{number}.mid", 12.5, 2, 96))
    for name, rows, schema in (("pieces", pieces, PIECES), ("tracks", tracks, TRACKS), ("notes", notes, NOTES)):
        table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema)
        pq.write_table(table, table_file(folder, name, 0))


def hashes(layout: Layout) -> dict[str, str]:
    files = sorted(path for path in layout.audio.rglob("*") if path.is_file())
    return {str(path.relative_to(layout.audio)): sha256_file(path) for path in files}


def layout_with_notes(root: Path) -> Layout:
    layout = Layout(root)
    write_notes(layout.notes)
    return layout


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, StageResult]:
    layout = layout_with_notes(tmp_path_factory.mktemp("rendered"))
    return layout, run_all(stage, CONFIG, layout=layout)


def test_the_manifest_keeps_its_promises(rendered: tuple[Layout, StageResult]) -> None:
    layout, report = rendered
    manifest = read_manifest(layout.audio)
    for split in ("train", "validation", "test", "test_seen"):
        assert len(triple_positions(manifest, split)) == getattr(CONFIG.triples, split)
    assert manifest["clip_id"].is_unique
    assert (manifest["n_samples"] == 16000).all()
    assert (manifest["peak"] <= 0.9901).all()
    assert (20 * np.log10(manifest["rms"]) < -22.9).all()
    assert (manifest["n_onsets"] >= 2).all()
    for _, triple in manifest.groupby("triple_id"):
        content, style, target = (triple[triple["role"] == role].iloc[0] for role in ("content", "style", "target"))
        same_notes = ["piece_id", "track", "start", "transposition"]
        assert (content[same_notes] == target[same_notes]).all()
        assert style["timbre_id"] == target["timbre_id"] != content["timbre_id"]
    metrics = read_json(layout.results("render_triples") / "metrics.json")
    assert (metrics["clips"], metrics["triples_train"], metrics["audio_seconds"]) == (132, 24, 132)
    assert metrics == report.metrics
    assert "reused 0 shards" in report.summary
    assert not (layout.root / ".scratch" / "render_triples").exists()


def test_nothing_that_is_held_out_is_in_training(rendered: tuple[Layout, StageResult]) -> None:
    manifest = read_manifest(rendered[0].audio)
    presets = list_all_presets({BUNDLED: bundled_soundfont()})
    test = {p.program for p in timbre_palette("test", presets, CONFIG.soundfonts, CONFIG.splits).presets}
    for row in manifest.to_dict("records"):
        side = "test" if row["split"] == "test" else "train"
        timbre = Timbre.from_text(row["timbre"])
        assert {"test" if layer.program in test else "train" for layer in timbre.layers} == {side}
        assert {effect_split(effect.setting, 0.25) for effect in timbre.effects} <= {side}
        assert piece_split(row["piece_id"], CONFIG.splits) == row["split"].removesuffix("_seen")
        assert row["timbre_id"] == timbre.timbre_id
    test_timbres = set(manifest.loc[manifest["split"] == "test", "timbre_id"])
    assert test_timbres.isdisjoint(manifest.loc[manifest["split"] != "test", "timbre_id"])
    assert (manifest["n_effects"] > 0).any()
    assert (manifest["n_layers"] > 1).any()


def test_any_clip_can_be_rendered_again_bit_for_bit(rendered: tuple[Layout, StageResult]) -> None:
    layout, _ = rendered
    synthesizer = Synthesizer({BUNDLED: bundled_soundfont()}, sample_rate=CONFIG.sample_rate)
    shards = AudioShards(layout.audio)
    clip_notes = ClipNotes(read_clip_notes(layout.audio))
    for row in read_manifest(layout.audio).sample(25, random_state=0).to_dict("records"):
        recipe = ClipRecipe.from_row(row)
        clip = render_recipe(recipe, clip_notes.of(row["clip_id"]), synthesizer)
        assert clip is not None
        assert recipe.clip_id == row["clip_id"]
        assert encode_flac(clip.audio, CONFIG.sample_rate) == shards.read_bytes(
            row["shard"], row["offset"], row["nbytes"]
        )
    synthesizer.close()


def test_processes_threads_and_order_change_nothing(rendered: tuple[Layout, StageResult], tmp_path: Path) -> None:
    layout = layout_with_notes(tmp_path / "processes")
    shards = stage.plan(CONFIG, layout=layout)[::-1]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(_run_one, [(shard, layout) for shard in shards]))
    stage.finish(CONFIG, layout=layout)
    assert hashes(layout) == hashes(rendered[0])
    layout = layout_with_notes(tmp_path / "threads")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(_run_one, [(shard, layout) for shard in stage.plan(CONFIG, layout=layout)]))
    stage.finish(CONFIG, layout=layout)
    assert hashes(layout) == hashes(rendered[0])


def _run_one(arguments: tuple[stage.Shard, Layout]) -> None:
    stage.run_one(arguments[0], CONFIG, layout=arguments[1])


def test_a_broken_run_goes_on_where_it_stopped(
    rendered: tuple[Layout, StageResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_with_notes(tmp_path)
    shards = stage.plan(CONFIG, layout=layout)
    stage.run_one(shards[0], CONFIG, layout=layout)
    monkeypatch.setattr(stage, "write_clip_notes", _killed)
    with pytest.raises(KeyboardInterrupt):
        stage.run_one(shards[1], CONFIG, layout=layout)
    assert not shards[1].folder(layout).exists()
    with pytest.raises(TimbreflowError, match="is missing; run render_triples again"):
        stage.finish(CONFIG, layout=layout)
    assert not layout.audio.exists()
    before = shards[0].folder(layout).stat().st_mtime_ns
    monkeypatch.undo()
    report_of_plan = stage.plan(CONFIG, layout=layout)
    stage.run_one(report_of_plan[0], CONFIG, layout=layout)
    assert shards[0].folder(layout).stat().st_mtime_ns == before
    report = run_all(stage, CONFIG, layout=layout)
    assert "reused 1 shards" in report.summary
    assert hashes(layout) == hashes(rendered[0])


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_one_more_triple_changes_one_shard() -> None:
    more = dataclasses.replace(CONFIG, triples=dataclasses.replace(CONFIG.triples, test=7, train=23))
    before = {shard.name: shard.numbers for shard in stage._shards(more, "key")}
    after = {shard.name: shard.numbers for shard in stage._shards(CONFIG, "key")}
    changed = [name for name in after if after[name] != before.get(name)]
    assert sorted(name.split("/")[0] for name in changed) == ["test", "train"]


def test_parameters_notes_and_seed_decide_the_scratch_folder(tmp_path: Path) -> None:
    layout = layout_with_notes(tmp_path)
    key = stage._key(CONFIG, layout)
    assert stage._key(CONFIG, layout) == key
    assert stage._key(dataclasses.replace(CONFIG, seed=2), layout) != key
    path = table_file(layout.notes, "pieces", 0)
    pq.write_table(pa.Table.from_pandas(pd.read_parquet(path).iloc[:-1], schema=PIECES), path)
    assert stage._key(CONFIG, layout) != key


def test_too_little_music_is_said_before_anything_is_rendered(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with pytest.raises(TimbreflowError, match="holds no note tables"):
        stage.plan(CONFIG, layout=layout)
    write_notes(layout.notes, n_pieces=1)
    with pytest.raises(TimbreflowError, match="too little music for .* triples of the split .*collect more music"):
        stage.plan(CONFIG, layout=layout)
    assert not (tmp_path / ".scratch").exists()


def test_a_wrong_or_missing_soundfont_stops_the_stage(tmp_path: Path) -> None:
    layout = layout_with_notes(tmp_path)
    wrong = dataclasses.replace(CONFIG, soundfonts=(SoundFontSpec(BUNDLED, "0" * 64, "train"),))
    with pytest.raises(TimbreflowError, match="instead of 0000"):
        stage.plan(wrong, layout=layout)
    absent = dataclasses.replace(CONFIG, soundfonts=(*CONFIG.soundfonts, SoundFontSpec("Absent", "1" * 64, "test")))
    with pytest.raises(TimbreflowError, match=r"Absent\.sf2.*corpus fetch Absent"):
        stage.plan(absent, layout=layout)


def test_a_test_font_gives_the_test_timbres(tmp_path: Path) -> None:
    layout = layout_with_notes(tmp_path)
    layout.soundfonts.mkdir(parents=True)
    (layout.soundfonts / "Other.sf2").write_bytes(bundled_soundfont().read_bytes())
    other = SoundFontSpec("Other", CONFIG.soundfonts[0].sha256, "test")
    counts = TripleCounts(train=3, validation=1, test=3, test_seen=1)
    config = dataclasses.replace(CONFIG, soundfonts=(*CONFIG.soundfonts, other), triples=counts)
    run_all(stage, config, layout=layout)
    for row in read_manifest(layout.audio).to_dict("records"):
        fonts = {layer["soundfont"] for layer in json.loads(row["timbre"])["layers"]}
        assert fonts == {"Other" if row["split"] == "test" else BUNDLED}


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("triples", {"train": 0}, "at least one"),
        ("splits", {"test_pieces": 0.9}, "leave pieces for training"),
        (None, {"sample_rate": 4000}, "8000..96000"),
        (None, {"clip_seconds": 0.0}, "positive"),
        (None, {"soundfonts": ()}, "role train"),
        (None, {"soundfonts": CONFIG.soundfonts * 2}, "twice"),
    ],
)
def test_wrong_parameters_are_refused(section: str | None, change: dict[str, Any], message: str) -> None:
    part: Any = getattr(CONFIG, section) if section else CONFIG
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(part, **change)


def test_notes_are_played_at_other_tempi_and_velocities(rendered: tuple[Layout, StageResult]) -> None:
    layout, _ = rendered
    written = NoteTables.read(layout.notes)
    played = ClipNotes(read_clip_notes(layout.audio))
    tempi, offsets, alike = [], [], 0
    for _, triple in read_manifest(layout.audio).groupby("triple_id"):
        rows = triple.set_index("role")
        row, found = rows.loc["target"], played.of(rows.loc["target", "clip_id"])
        alike += played.of(rows.loc["content", "clip_id"]).onset.tolist() == found.onset.tolist()
        score = written.notes(row["piece_id"], int(row["track"])).window(float(row["start"]), 2 * CONFIG.clip_seconds)
        tempi.append(score.onset[score.onset > 0][0] / found.onset[found.onset > 0][0])
        offsets.append(int(found.velocity[0]) - int(score.velocity[0]))
    assert alike == len(tempi) >= 10
    assert 1 / 1.2 <= min(tempi) < 0.95 < 1.05 < max(tempi) <= 1.2001
    assert -20 <= min(offsets) < 0 < max(offsets) <= 20
