"""Small test sets frozen as the real ones are in released/testsets, so that what checks them has something to check."""

import shutil
from pathlib import Path

from timbreflow.data.manifest import read_manifest, write_table
from timbreflow.data.shards import AudioShards
from timbreflow.files import sha256_file
from timbreflow.testsets.frozen import (
    SAMPLE_RATE,
    SOUND_SCHEMA,
    Checksums,
    digest_of_sound,
    read_checksums,
    sound_row,
    write_checksums,
)


def freeze(root: Path, name: str) -> None:
    """Write released/testsets/NAME, and its checksums, from what lies in data/testsets/NAME."""
    built, released = root / "data" / "testsets" / name, root / "released" / "testsets"
    (released / name).mkdir(parents=True, exist_ok=True)
    for table in ("manifest.parquet", "clip_notes.parquet"):
        shutil.copyfile(built / table, released / name / table)
    manifest, shards = read_manifest(built), AudioShards(built, sample_rate=SAMPLE_RATE)
    places = manifest[["clip_id", "shard", "offset", "nbytes"]].itertuples(index=False)
    sound = [sound_row(clip, shards.read_bytes(*place)) for clip, *place in places]
    write_table(released / name / "sound.parquet", sound, SOUND_SCHEMA)
    others = read_checksums(released) if (released / "checksums.json").is_file() else {}
    checksums = Checksums(
        manifest=sha256_file(released / name / "manifest.parquet"),
        clip_notes=sha256_file(released / name / "clip_notes.parquet"),
        sound_table=sha256_file(released / name / "sound.parquet"),
        sound=digest_of_sound({row["clip_id"]: row["sha256"] for row in sound}),
        shard=sha256_file(built / name / "shard-00000.tar"),
        sources={},
        fluidsynth="",
        triples=manifest["triple_id"].nunique(),
    )
    write_checksums(released, {**others, name: checksums})
