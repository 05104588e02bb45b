"""Stage render_triples: note tables and SoundFonts -> audio shards, manifest and notes of every clip."""

import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import (
    CLIP_NOTES_SCHEMA,
    SPLITS,
    all_triple_positions,
    read_clip_notes,
    read_manifest,
    write_clip_notes,
    write_manifest,
)
from timbreflow.data.renderer import RenderInputs, TripleRenderer, n_onsets, segment_pools
from timbreflow.data.shards import write_shard
from timbreflow.data.splits import PIECES_OF, timbre_palette
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, link_or_copy, read_json, sha256_file, stable_hash, write_json
from timbreflow.notes.tables import Notes, NoteTables
from timbreflow.rendering.clips import RenderedClip
from timbreflow.rendering.config import RenderConfig
from timbreflow.rendering.programs import class_id
from timbreflow.rendering.soundfonts import find_soundfonts, list_all_presets
from timbreflow.rendering.synthesizer import fluidsynth_version
from timbreflow.rendering.triples import ClipRecipe
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult
from timbreflow.stages.unfinished import note_reused, require_finished

STAGE = "render_triples"

RECIPE_VERSION = 2
"""Raise it when the same parameters come to mean other clips, so that half-finished work of before is not reused."""


@dataclass(frozen=True)
class Shard:
    """One unit of work: the index of a shard in its split, its triples' numbers, and the key of the scratch folder."""

    split: str
    index: int
    numbers: tuple[int, ...]
    key: str

    @property
    def name(self) -> str:
        """Path of the tar without suffix, relative to data/audio."""
        return f"{self.split}/shard-{self.index:05d}"

    def folder(self, layout: Layout) -> Path:
        """Where the finished shard waits in scratch."""
        return layout.scratch(STAGE, self.key) / self.name


def plan(config: RenderConfig, *, layout: Layout) -> list[Shard]:
    """Check what is needed and list the shards.

    A triple's shard is a hash of its number, so one more triple changes one shard.

    Raises:
        TimbreflowError: notes, a SoundFont or FluidSynth are missing, or a split has too few pieces or programs.
    """
    key = _key(config, layout)
    pools = segment_pools(NoteTables.read(layout.notes), config)
    presets = list_all_presets(find_soundfonts(config.soundfonts, layout.soundfonts))
    for split in SPLITS:
        if getattr(config.triples, split) > 0:
            pool = pools[PIECES_OF[split]]
            if not pool.holds_pair():
                raise TimbreflowError(_too_little(split, config, layout, len(pool)))
            timbre_palette(split, presets, config.soundfonts, config.splits)
    shards = _shards(config, key)
    note_reused(layout.scratch(STAGE, key), [shard.folder(layout) for shard in shards])
    return shards


def run_one(shard: Shard, config: RenderConfig, *, layout: Layout) -> None:
    """Render one shard into scratch; returns at once when it is already there.

    Raises:
        TimbreflowError: the notes hold no segments, or every attempt at a triple had silent notes.
    """
    if shard.folder(layout).is_dir():
        return
    began = time.perf_counter()
    renderer = _renderer(shard.key, config, layout)
    clips: dict[str, tuple[ClipRecipe, RenderedClip, Notes]] = {}
    redrawn = 0
    for number in shard.numbers:
        triple, attempt = renderer.render(shard.split, number)
        redrawn += attempt
        clips.update({recipe.clip_id: (recipe, clip, notes) for recipe, clip, notes in triple})
    with atomic_directory(shard.folder(layout)) as folder:
        encoded = [(name, encode_flac(clip.audio, config.sample_rate)) for name, (_, clip, _) in clips.items()]
        entries = write_shard(folder / "clips.tar", encoded)
        places = {entry.clip_id: (entry.offset, entry.nbytes) for entry in entries}
        order = sorted(clips, key=lambda name: (clips[name][0].triple_id, clips[name][0].role))
        write_manifest(
            folder,
            [manifest_row(*clips[name], split=shard.split, shard=shard.name, place=places[name]) for name in order],
        )
        write_clip_notes(folder, pd.concat([note_rows(name, clips[name][2]) for name in order]))
        write_json(folder / "log.json", {"seconds": time.perf_counter() - began, "redrawn": redrawn})


def finish(config: RenderConfig, *, layout: Layout) -> StageResult:
    """Move the shards into data/audio, write manifest.parquet, clip_notes.parquet and metrics.json.

    Raises:
        TimbreflowError: a shard has not been rendered.
    """
    key = _key(config, layout)
    scratch = layout.scratch(STAGE, key)
    shards = _shards(config, key)
    reused = require_finished(STAGE, scratch, [shard.folder(layout) for shard in shards])
    manifests, notes, logs = [], [], []
    with atomic_directory(layout.audio) as folder:
        for shard in shards:
            source = shard.folder(layout)
            tar = folder / f"{shard.name}.tar"
            tar.parent.mkdir(exist_ok=True)
            link_or_copy(source / "clips.tar", tar)
            manifests.append(read_manifest(source))
            notes.append(read_clip_notes(source))
            logs.append(read_json(source / "log.json"))
        manifest = pd.concat(manifests, ignore_index=True)
        write_manifest(folder, manifest)
        write_clip_notes(folder, pd.concat(notes, ignore_index=True))
    report = _report(manifest, logs, config, reused)
    write_json(layout.results(STAGE) / "metrics.json", report.metrics)
    # Half-finished work under other keys belongs to parameters or notes that have changed since.
    shutil.rmtree(scratch.parent)
    return report


_kept = threading.local()


def _renderer(key: str, config: RenderConfig, layout: Layout) -> TripleRenderer:
    """This thread's renderer. A synthesizer must not be shared between threads; another key frees the one before."""
    if getattr(_kept, "key", None) != (key, layout):
        _kept.renderer, _kept.key = None, None
        _kept.renderer = TripleRenderer(RenderInputs(config, layout.notes, layout.soundfonts))
        _kept.key = (key, layout)
    renderer: TripleRenderer = _kept.renderer
    return renderer


def _key(config: RenderConfig, layout: Layout) -> str:
    """Scratch key: a hash of everything that decides what the shards hold."""
    find_soundfonts(config.soundfonts, layout.soundfonts)  # their digests are part of the configuration
    notes = [(path.name, sha256_file(path)) for path in sorted(layout.notes.glob("*.parquet"))]
    parts = (RECIPE_VERSION, asdict(config), notes, fluidsynth_version())
    return f"{stable_hash(*parts):016x}"


def _shards(config: RenderConfig, key: str) -> list[Shard]:
    shards = []
    for split in SPLITS:
        count = getattr(config.triples, split)
        n_shards = -(-count // config.triples_per_shard)
        members: dict[int, list[int]] = {}
        for number in range(count):
            members.setdefault(stable_hash("shard", split, number) % n_shards, []).append(number)
        shards += [Shard(split, index, tuple(members[index]), key) for index in sorted(members)]
    return shards


def manifest_row(
    recipe: ClipRecipe, clip: RenderedClip, notes: Notes, *, split: str, shard: str, place: tuple[int, int]
) -> dict[str, Any]:
    """A clip's row of the manifest.

    `shard` is the path of its tar without suffix, relative to the manifest; `place` the offset and the length of its
    FLAC inside the tar, in bytes.
    """
    segment, timbre, first = recipe.segment, recipe.timbre, recipe.timbre.layers[0]
    return {
        "clip_id": recipe.clip_id,
        "triple_id": recipe.triple_id,
        "split": split,
        "role": recipe.role,
        "shard": f"{shard}.tar",
        "offset": place[0],
        "nbytes": place[1],
        "piece_id": segment.piece_id,
        "track": segment.track,
        "start": segment.start,
        "duration": recipe.seconds,
        "transposition": segment.transposition,
        "timbre_id": timbre.timbre_id,
        "soundfont": first.soundfont,
        "bank": first.bank,
        "program": first.program,
        "n_layers": len(timbre.layers),
        "n_effects": len(timbre.effects),
        "timbre": timbre.to_text(),
        "class_id": class_id(first.program),
        "n_onsets": n_onsets(notes),
        "n_samples": len(clip.audio),
        "peak": clip.peak,
        "rms": clip.rms,
        "gain_db": clip.gain_db,
    }


def note_rows(clip_id: str, notes: Notes) -> pd.DataFrame:
    """A clip's rows of clip_notes."""
    return pd.DataFrame({"clip_id": clip_id, **{name: getattr(notes, name) for name in CLIP_NOTES_SCHEMA.names[1:]}})


def _report(manifest: pd.DataFrame, logs: list[dict[str, Any]], config: RenderConfig, reused: int) -> StageResult:
    seconds = float(sum(log["seconds"] for log in logs))
    sounding = float(manifest["n_samples"].sum()) / config.sample_rate
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        part = manifest[manifest["split"] == split]
        n_triples = len(all_triple_positions(manifest, split)) if len(part) else 0
        unique = {"timbres": int(part["timbre_id"].nunique()), "pieces": int(part["piece_id"].nunique())}
        rows.append({"split": split, "triples": n_triples, **unique})
    metrics = {
        "clips": float(len(manifest)),
        "timbres": float(manifest["timbre_id"].nunique()),
        "pieces": float(manifest["piece_id"].nunique()),
        "shards": float(len(logs)),
        "redrawn": float(sum(log["redrawn"] for log in logs)),
        "audio_seconds": sounding,
        "bytes": float(manifest["nbytes"].sum()),
        **{f"{kind}_{row['split']}": float(row[kind]) for row in rows for kind in ("triples", "timbres")},
    }
    summary = (
        f"{sum(row['triples'] for row in rows)} triples ({len(manifest)} clips, {sounding / 3600:.2f} h) of "
        f"{metrics['timbres']:.0f} timbres in {len(logs)} shards, reused {reused} shards, "
        f"{sounding / seconds:.0f} x real time."
    )
    return StageResult(summary, metrics, {"splits": rows})


def _too_little(split: str, config: RenderConfig, layout: Layout, n_tracks: int) -> str:
    return (
        f"{layout.notes} has too little music for {getattr(config.triples, split)} triples of the split {split}: "
        f"{n_tracks} of its tracks could be used and two disjoint segments of {config.clip_seconds:g} s with "
        f"{config.min_onsets} onsets are needed; collect more music, raise the fraction of pieces in "
        "render_triples.splits, or lower min_onsets."
    )
