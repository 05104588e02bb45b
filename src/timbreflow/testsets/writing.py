"""Drawn test sets, written as they lie in git: tables, fingerprints and checksums, but no sound."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import write_clip_notes, write_manifest, write_table
from timbreflow.data.shards import write_shard
from timbreflow.files import atomic_directory, sha256_file
from timbreflow.notes.tables import Notes
from timbreflow.rendering.clips import RenderedClip
from timbreflow.rendering.synthesizer import fluidsynth_version
from timbreflow.rendering.triples import ClipRecipe
from timbreflow.stages.render_triples import manifest_row
from timbreflow.testsets.frozen import SAMPLE_RATE, SOUND_SCHEMA, Checksums, digest_of_sound, sound_row
from timbreflow.testsets.sources import digest


@dataclass(frozen=True)
class DrawnClip:
    """A clip of a drawn set: what it is made from, and its sound."""

    recipe: ClipRecipe
    notes: Notes
    clip: RenderedClip


def write_set(name: str, clips: Sequence[DrawnClip], sources: Mapping[str, Path], released: Path) -> Checksums:
    """Write the tables of a set.

    Args:
        name: of the set.
        clips: content, style and target of each triple in turn.
        sources: SoundFonts and folders of recordings that it sounds with, by name.
        released: released/testsets.

    Returns:
        What checksums.json says about it.
    """
    flacs = {drawn.recipe.clip_id: encode_flac(drawn.clip.audio, SAMPLE_RATE) for drawn in clips}
    with tempfile.TemporaryDirectory() as scratch:
        tar = Path(scratch) / "shard.tar"
        places = {entry.clip_id: (entry.offset, entry.nbytes) for entry in write_shard(tar, flacs.items())}
        shard = sha256_file(tar)
    sound = [sound_row(clip_id, flacs[clip_id]) for clip_id in sorted(flacs)]
    note_rows: list[dict[str, Any]] = []
    for drawn in clips:
        columns = zip(
            *(getattr(drawn.notes, c).tolist() for c in ("onset", "duration", "pitch", "velocity")), strict=True
        )
        note_rows += [
            {
                "clip_id": drawn.recipe.clip_id,
                "onset": onset,
                "duration": duration,
                "pitch": pitch,
                "velocity": velocity,
            }
            for onset, duration, pitch, velocity in columns
        ]
    with atomic_directory(released / name) as folder:
        rows = [
            manifest_row(
                drawn.recipe,
                drawn.clip,
                drawn.notes,
                split=name,
                shard=f"{name}/shard-00000",
                place=places[drawn.recipe.clip_id],
            )
            for drawn in clips
        ]
        write_manifest(folder, rows)
        write_clip_notes(folder, note_rows)
        write_table(folder / "sound.parquet", sound, SOUND_SCHEMA)
    folder = released / name
    return Checksums(
        manifest=sha256_file(folder / "manifest.parquet"),
        clip_notes=sha256_file(folder / "clip_notes.parquet"),
        sound_table=sha256_file(folder / "sound.parquet"),
        sound=digest_of_sound({row["clip_id"]: row["sha256"] for row in sound}),
        shard=shard,
        sources={source: digest(path) for source, path in sources.items()},
        fluidsynth=fluidsynth_version(),
        triples=len(clips) // 3,
    )
