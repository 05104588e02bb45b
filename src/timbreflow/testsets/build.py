"""The frozen test sets made audible again from git, and compared with what they were (`timbreflow testset build`)."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from timbreflow.data.manifest import write_manifest
from timbreflow.data.shards import write_shard
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, sha256_file
from timbreflow.notes.tables import Notes
from timbreflow.rendering.clips import RenderedClip
from timbreflow.rendering.synthesizer import fluidsynth_version
from timbreflow.rendering.triples import ClipRecipe
from timbreflow.stages.layout import Layout
from timbreflow.testsets.frozen import (
    SAMPLE_RATE,
    TOLERANCE_DB,
    ReleasedSet,
    compare_sound,
    digest_of_sound,
    read_checksums,
    read_released,
)
from timbreflow.testsets.sources import Players, Say, check_sources

_SILENT = Notes.of([], [], [], [])


@dataclass(frozen=True)
class BuiltSet:
    """One test set that has been built.

    Args:
        name: of the set.
        folder: that `EvaluationClips(folder, name, ...)` opens.
        triples: number of triples.
        sound: sha256 of all samples (`digest_of_sound`).
        differing: clips whose samples are not those of git.
        distance_db: greatest median log-mel difference of those clips, in dB; 0 where there are none.
        summary: one line for a person.
    """

    name: str
    folder: Path
    triples: int
    sound: str
    differing: int
    distance_db: float
    summary: str


def build(names: Sequence[str], *, layout: Layout, released: Path, out: Path, say: Say) -> list[BuiltSet]:
    """Render test sets from their recipes and notes in git, and compare the sound with the released checksums.

    Args:
        names: of sets; none means all.
        layout: where SoundFonts and recordings lie; what is missing is fetched.
        released: released/testsets.
        out: folder that gets one folder a set: manifest.parquet, clip_notes.parquet, <name>/shard-00000.tar.
        say: gets one line a fetch and one line a set.

    Raises:
        TimbreflowError: a set is unknown, a source is missing or another file, or a clip's log-mel is further than
            TOLERANCE_DB from the released one's.
    """
    built = []
    for released_set in [read_released(released, name) for name in dict.fromkeys(names or read_checksums(released))]:
        built.append(_build_one(released_set, layout=layout, out=Path(out), say=say))
        say(built[-1].summary)
    return built


def render_flacs(released: ReleasedSet, clip_ids: Sequence[str], paths: Mapping[str, Path]) -> dict[str, "MadeClip"]:
    """Render clips of a released set.

    Args:
        released: the set.
        clip_ids: which of its clips.
        paths: of its SoundFonts and recordings, by name.

    Raises:
        TimbreflowError: a clip comes out silent.
    """
    notes = released.notes()
    rows = released.manifest.set_index("clip_id", drop=False)
    players = Players(paths, sample_rate=SAMPLE_RATE)
    made = {}
    for clip_id in clip_ids:
        recipe = ClipRecipe.from_row({str(key): value for key, value in rows.loc[clip_id].items()})
        clip = players.render(recipe, notes.get(clip_id, _SILENT))
        if clip is None:
            raise TimbreflowError(
                f"clip {clip_id} of the test set {released.name} is silent with FluidSynth {fluidsynth_version()}; "
                f"use version {released.checksums.fluidsynth}."
            )
        made[clip_id] = MadeClip(players.encode(clip), clip)
    players.close()
    return made


@dataclass(frozen=True)
class MadeClip:
    """A clip's FLAC, and the levels that the manifest keeps."""

    flac: bytes
    levels: RenderedClip


def _build_one(released: ReleasedSet, *, layout: Layout, out: Path, say: Say) -> BuiltSet:
    name, folder = released.name, out / released.name
    tar = f"{name}/shard-00000.tar"
    if (folder / tar).is_file() and sha256_file(folder / tar) == released.checksums.shard:
        # What lies here already is the released sound; the tables may have been touched.
        _copy_tables(released, folder)
        say(f"{folder / tar} is here already.")
        return _summary(released, folder, released.checksums.shard, released.checksums.sound, {})
    paths = check_sources(released.checksums.sources, layout, say=say)
    made = render_flacs(released, released.manifest["clip_id"].tolist(), paths)
    sound, distances = _compare(released, made)
    with atomic_directory(folder) as fresh:
        (fresh / name).mkdir()
        entries = write_shard(fresh / tar, [(clip_id, clip.flac) for clip_id, clip in made.items()])
        shard = sha256_file(fresh / tar)
        _copy_tables(released, fresh)
        if shard != released.checksums.shard:
            places = {entry.clip_id: (entry.offset, entry.nbytes) for entry in entries}
            write_manifest(fresh, _with_places(released.manifest, places, made))
    return _summary(released, folder, shard, sound, distances)


def _compare(released: ReleasedSet, made: Mapping[str, MadeClip]) -> tuple[str, dict[str, float]]:
    """Digest of the sound, and the log-mel distance (dB) of every clip whose samples differ."""
    by_clip, distances = compare_sound(released, ((clip_id, clip.flac) for clip_id, clip in made.items()))
    worst = max(distances, key=distances.__getitem__, default="")
    if worst and distances[worst] > TOLERANCE_DB:
        far = sum(distance > TOLERANCE_DB for distance in distances.values())
        raise TimbreflowError(
            f"{far} of {len(made)} clips of the test set {released.name} differ from those in git by more than "
            f"{TOLERANCE_DB} dB (clip {worst} by {distances[worst]:.2f} dB, rendered with FluidSynth "
            f"{fluidsynth_version()}); install FluidSynth {released.checksums.fluidsynth}, with which they were made."
        )
    return digest_of_sound(by_clip), distances


def _copy_tables(released: ReleasedSet, folder: Path) -> None:
    for name in ("manifest.parquet", "clip_notes.parquet"):
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256_file(released.folder / name):
            shutil.copyfile(released.folder / name, folder / name)


def _with_places(
    manifest: pd.DataFrame, places: Mapping[str, tuple[int, int]], made: Mapping[str, MadeClip]
) -> pd.DataFrame:
    clips = manifest["clip_id"].tolist()
    changed = manifest.copy()
    changed["offset"] = [places[clip][0] for clip in clips]
    changed["nbytes"] = [places[clip][1] for clip in clips]
    for column in ("peak", "rms", "gain_db"):
        changed[column] = np.array([getattr(made[clip].levels, column) for clip in clips], np.float32)
    return changed


def _summary(released: ReleasedSet, folder: Path, shard: str, sound: str, distances: Mapping[str, float]) -> BuiltSet:
    expected = released.checksums
    greatest = max(distances.values(), default=0.0)
    if not distances:
        verdict = "equal to those in git"
        if shard != expected.shard:
            verdict = "samples equal to those in git, their FLAC from another encoder"
    else:
        verdict = (
            f"{len(distances)} of {3 * expected.triples} clips differ in bits from those in git (FluidSynth "
            f"{fluidsynth_version()}, theirs {expected.fluidsynth}), by at most {greatest:.2f} dB of "
            f"{TOLERANCE_DB} allowed"
        )
    summary = (
        f"{released.name}: {expected.triples} triples at {folder}; sha256 of manifest {expected.manifest[:16]}, "
        f"notes {expected.clip_notes[:16]}, sound {sound[:16]}, shard {shard[:16]}: {verdict}."
    )
    return BuiltSet(released.name, folder, expected.triples, sound, len(distances), greatest, summary)
