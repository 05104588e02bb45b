"""`timbreflow testset build`: the sound of the frozen test sets, rendered from git and compared with its checksums."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import write_manifest
from timbreflow.data.shards import ShardEntry, write_shard
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
    shard_name,
)
from timbreflow.testsets.sources import Players, Say, check_sources

_SILENT = Notes.of([], [], [], [])


@dataclass(frozen=True)
class BuiltSet:
    """One test set that has been built.

    Args:
        released: the set in git.
        folder: that `EvaluationClips(folder, name, ...)` opens.
        sound: sha256 of all samples (`digest_of_sound`).
        shard: sha256 of the tar of FLACs.
        distances: clip_id to log-mel distance in dB, for clips whose samples differ from those in git.
    """

    released: ReleasedSet
    folder: Path
    sound: str
    shard: str
    distances: Mapping[str, float]

    @property
    def summary(self) -> str:
        """One line for people."""
        expected = self.released.checksums
        if self.distances:
            verdict = (
                f"{len(self.distances)} of {3 * expected.triples} clips differ in bits from those in git (FluidSynth "
                f"{fluidsynth_version()}, theirs {expected.fluidsynth}), by at most "
                f"{max(self.distances.values()):.2f} dB of {TOLERANCE_DB} allowed"
            )
        elif self.shard != expected.shard:
            verdict = "samples equal to those in git, their FLAC from another encoder"
        else:
            verdict = "equal to those in git"
        return (
            f"{self.released.name}: {expected.triples} triples at {self.folder}; sha256 of manifest "
            f"{expected.manifest[:16]}, notes {expected.clip_notes[:16]}, sound {self.sound[:16]}, shard "
            f"{self.shard[:16]}: {verdict}."
        )


def build(names: Sequence[str], *, layout: Layout, released: Path, out: Path, say: Say) -> list[BuiltSet]:
    """Render test sets from their recipes and notes in git, and compare the sound with the released checksums.

    No names mean all sets. `out` gets one folder a set: manifest.parquet, clip_notes.parquet, <name>/shard-00000.tar.
    SoundFonts and recordings that are missing are fetched; `say` gets one line for each and for each set.

    Raises:
        TimbreflowError: a set is unknown, a source is missing or another file, or a clip's log-mel is further than
            TOLERANCE_DB from the released one's.
    """
    built = []
    for released_set in [read_released(released, name) for name in dict.fromkeys(names or read_checksums(released))]:
        built.append(_build_one(released_set, layout=layout, folder=Path(out) / released_set.name, say=say))
        say(built[-1].summary)
    return built


def render_clips(
    released: ReleasedSet, clip_ids: Sequence[str], paths: Mapping[str, Path], *, sample_rate: int = SAMPLE_RATE
) -> dict[str, tuple[RenderedClip, bytes]]:
    """Render clips of a released set: clip_id to the clip and its FLAC. `paths` are its SoundFonts and recordings.

    At another rate than SAMPLE_RATE, in Hz, the notes and timbres are the same, and the sound is no part of the set.

    Raises:
        TimbreflowError: a clip comes out silent.
    """
    notes = released.notes()
    rows = released.manifest.set_index("clip_id", drop=False)
    players = Players(paths, sample_rate=sample_rate)
    made = {}
    for clip_id in clip_ids:
        recipe = ClipRecipe.from_row({str(key): value for key, value in rows.loc[clip_id].items()})
        clip = players.render(recipe, notes.get(clip_id, _SILENT))
        if clip is None:
            raise TimbreflowError(
                f"clip {clip_id} of the test set {released.name} is silent with FluidSynth {fluidsynth_version()}; "
                f"use version {released.checksums.fluidsynth}."
            )
        made[clip_id] = clip, encode_flac(clip.audio, sample_rate)
    players.close()
    return made


def _build_one(released: ReleasedSet, *, layout: Layout, folder: Path, say: Say) -> BuiltSet:
    expected, tar = released.checksums, shard_name(released.name)
    if (folder / tar).is_file() and sha256_file(folder / tar) == expected.shard:
        # The sound is the released one; the tables may have been changed.
        _copy_tables(released, folder)
        say(f"{folder / tar} is here already.")
        return BuiltSet(released, folder, expected.sound, expected.shard, {})
    made = render_clips(
        released, released.manifest["clip_id"].tolist(), check_sources(expected.sources, layout, say=say)
    )
    flacs = {clip_id: flac for clip_id, (_, flac) in made.items()}
    by_clip, distances = compare_sound(released, flacs.items())
    _require_alike(released, distances)
    with atomic_directory(folder) as fresh:
        (fresh / released.name).mkdir()
        entries = write_shard(fresh / tar, flacs.items())
        shard = sha256_file(fresh / tar)
        _copy_tables(released, fresh)
        if shard != expected.shard:
            _write_manifest(released, fresh, entries, {clip_id: clip for clip_id, (clip, _) in made.items()})
    return BuiltSet(released, folder, digest_of_sound(by_clip), shard, distances)


def _require_alike(released: ReleasedSet, distances: Mapping[str, float]) -> None:
    far = {clip: distance for clip, distance in distances.items() if distance > TOLERANCE_DB}
    if far:
        worst = max(far, key=far.__getitem__)
        raise TimbreflowError(
            f"{len(far)} of {len(released.manifest)} clips of the test set {released.name} differ from those in git by "
            f"more than {TOLERANCE_DB} dB (clip {worst} by {far[worst]:.2f} dB, rendered with FluidSynth "
            f"{fluidsynth_version()}); install FluidSynth {released.checksums.fluidsynth}, with which they were made."
        )


def _copy_tables(released: ReleasedSet, folder: Path) -> None:
    for name in ("manifest.parquet", "clip_notes.parquet"):
        shutil.copyfile(released.folder / name, folder / name)


def _write_manifest(
    released: ReleasedSet, folder: Path, entries: Sequence[ShardEntry], clips: Mapping[str, RenderedClip]
) -> None:
    """The released manifest with places and levels of this machine's clips."""
    places = {entry.clip_id: entry for entry in entries}
    ids = released.manifest["clip_id"].tolist()
    columns = {column: [getattr(places[clip], column) for clip in ids] for column in ("offset", "nbytes")}
    levels = {
        column: np.array([getattr(clips[clip], column) for clip in ids], np.float32)
        for column in ("peak", "rms", "gain_db")
    }
    write_manifest(folder, released.manifest.assign(**columns, **levels))
