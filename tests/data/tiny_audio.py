"""A tiny data/audio as render_triples leaves it: true triples of synthetic tones, one second each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timbreflow.audio.features import FeatureConfig
from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import write_clip_notes, write_manifest
from timbreflow.data.shards import write_shard
from timbreflow.data.splits import timbre_palette
from timbreflow.files import sha256_file
from timbreflow.notes.tables import Notes
from timbreflow.rendering.config import (
    PerformanceConfig,
    RenderConfig,
    SoundFontSpec,
    SplitFractions,
    TimbreConfig,
    TripleCounts,
)
from timbreflow.rendering.soundfonts import BUNDLED, bundled_soundfont, list_all_presets
from timbreflow.rendering.timbres import Layer, Timbre

RATE = 8000
SECONDS = 1.0
FEATURES = FeatureConfig("log_mel", RATE, 512, 512, 125, 32, 0.0, 4000.0, 0.01)
COUNTS = {"train": 4, "validation": 2, "test": 2, "test_seen": 2}
RENDER = RenderConfig(
    seed=1,
    sample_rate=RATE,
    clip_seconds=SECONDS,
    min_onsets=3,
    transposition=5,
    performance=PerformanceConfig(tempo=0.0, velocity=0),
    complete_squares=False,
    triples_per_shard=2,
    soundfonts=(SoundFontSpec(BUNDLED, sha256_file(bundled_soundfont()), "train"),),
    triples=TripleCounts(**COUNTS),
    splits=SplitFractions(0.1, 0.1, 0.25, 0.25),
    timbre=TimbreConfig(0.0, 1, 0.0, 0.0, (1.0, 0.0, 0.0, 0.0)),
)
PALETTES = {
    split: timbre_palette(split, list_all_presets({BUNDLED: bundled_soundfont()}), RENDER.soundfonts, RENDER.splits)
    for split in ("train", "test")
}
SIDES = {side: sorted(preset.program for preset in palette.presets) for side, palette in PALETTES.items()}

Change = Callable[[pd.DataFrame], pd.DataFrame]


def write_tiny_audio(
    root: Path, *, manifest: Change | None = None, notes: Change | None = None, skip: tuple[str, ...] = ()
) -> None:
    """Write audio shards, manifest and clip_notes; the changes plant faults in the tables, skip leaves clips out."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    note_rows: list[dict[str, Any]] = []
    for split, count in COUNTS.items():
        programs = SIDES["test" if split == "test" else "train"]
        for first in range(0, count, RENDER.triples_per_shard):
            clips: dict[str, bytes] = {}
            made: list[dict[str, Any]] = []
            for number in range(first, first + RENDER.triples_per_shard):
                for row, audio, played in _triple(rng, split, number, programs):
                    clips[row["clip_id"]] = encode_flac(audio, RATE)
                    made.append(row)
                    note_rows += [
                        {"clip_id": row["clip_id"], "onset": o, "duration": d, "pitch": int(p), "velocity": int(v)}
                        for o, d, p, v in zip(played.onset, played.duration, played.pitch, played.velocity, strict=True)
                    ]
            shard = f"{split}/shard-{first // RENDER.triples_per_shard:05d}.tar"
            places = {entry.clip_id: entry for entry in write_shard(root / shard, clips.items())}
            for row in made:
                place = places[row["clip_id"]]
                rows.append({**row, "shard": shard, "offset": place.offset, "nbytes": place.nbytes})
    table, note_table = pd.DataFrame(rows), pd.DataFrame(note_rows)
    table = table[~table["clip_id"].isin(skip)].reset_index(drop=True)
    write_manifest(root, manifest(table) if manifest else table)
    write_clip_notes(root, notes(note_table) if notes else note_table)


def tone(notes: Notes, brightness: float) -> np.ndarray:
    """Notes as decaying harmonic tones at -23 dBFS: [N] float32."""
    time = np.arange(round(SECONDS * RATE)) / RATE
    audio = np.zeros_like(time)
    for onset, pitch in zip(notes.onset, notes.pitch, strict=True):
        frequency = 440 * 2 ** ((int(pitch) - 69) / 12)
        since = np.maximum(time - onset, 0)
        envelope = (time >= onset) * np.exp(-5 * since)
        for harmonic in range(1, 5):
            audio += envelope * brightness**harmonic * np.sin(2 * np.pi * frequency * harmonic * since)
    return (audio * 10 ** (-23 / 20) / np.sqrt(np.mean(audio**2))).astype(np.float32)


def _triple(
    rng: np.random.Generator, split: str, number: int, programs: list[int]
) -> list[tuple[dict[str, Any], np.ndarray, Notes]]:
    pieces = "test" if split == "test_seen" else split
    triple_id = f"{split}-{number:07d}"
    content_program, target_program = programs[2 * number], programs[2 * number + 1]
    same, other = _notes(rng), _notes(rng)
    # The first layer of a timbre is what decides its side, and brightness stands for the program.
    recipes = [
        ("content", same, content_program, 0.9, "a", 0.0),
        ("style", other, target_program, 0.3, "b", 4.0),
        ("target", same, target_program, 0.3, "a", 0.0),
    ]
    clips = []
    for role, played, program, brightness, piece, start in recipes:
        timbre = Timbre((Layer("TimGM6mb", 0, program, 0.0),), None, (), None)
        audio = tone(played, brightness)
        row = {
            "clip_id": f"{triple_id}-{role}",
            "triple_id": triple_id,
            "split": split,
            "role": role,
            "piece_id": f"{pieces}-{number}-{piece}",
            "track": 0,
            "start": start,
            "duration": SECONDS,
            "transposition": 0,
            "timbre_id": timbre.timbre_id,
            "soundfont": "TimGM6mb",
            "bank": 0,
            "program": program,
            "n_layers": 1,
            "n_effects": 0,
            "timbre": timbre.to_text(),
            "class_id": "0",
            "n_onsets": len(played),
            "n_samples": len(audio),
            "peak": float(np.abs(audio).max()),
            "rms": float(np.sqrt(np.mean(audio**2))),
            "gain_db": 0.0,
        }
        clips.append((row, audio, played))
    return clips


def _notes(rng: np.random.Generator) -> Notes:
    onsets = np.array([0.0, 0.25, 0.5, 0.75])
    return Notes.of(onsets, np.full(4, 0.2), rng.integers(48, 84, 4), np.full(4, 90))
