"""The frozen test sets as git keeps them: recipes, notes, checksums, and a fingerprint of every clip's sound.

released/testsets/<name>/ holds `manifest.parquet` and `clip_notes.parquet` (as in data/audio), and `sound.parquet`;
released/testsets/ holds `checksums.json` and `dropped_programs.json`. `build.py` renders the sound from these.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from timbreflow.audio.features import FeatureConfig, FeatureExtractor
from timbreflow.audio.files import decode_audio, to_int16
from timbreflow.data.manifest import CLIP_NOTES_SCHEMA, MANIFEST_SCHEMA, read_table
from timbreflow.data.shards import AudioShards
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, sha256_file, write_json
from timbreflow.notes.tables import Notes
from timbreflow.rendering.config import SplitFractions

TEST_SETS = ("artificial", "seen", "real")

TRAINING_FONTS = ("FluidR3_GM", "TimGM6mb", "sf_GMbank", "A320U", "OPL-3_FM_128M")
"""SoundFonts of the set `seen`, which baselines may play too, in the order of drawing. FluidR3Mono and
MuseScore_General hold the samples of FluidR3 and, being compressed, take 10 to 20 s to load: they are left out."""

FRACTIONS = SplitFractions(validation_pieces=0.1, test_pieces=0.1, test_programs=0.125, test_effects=0.2)
"""Held-out fractions: the sets were drawn from the test side of exactly these splits."""

SAMPLE_RATE = 16000
"""Hz."""

FINGERPRINT = FeatureConfig(
    kind="log_mel",
    sample_rate=SAMPLE_RATE,
    n_fft=2048,
    win_length=2000,
    hop_length=500,
    n_mels=64,
    fmin=40.0,
    fmax=8000.0,
    floor=0.01,
)
"""Features whose mean over time is a clip's fingerprint."""

TOLERANCE_DB = 0.5
"""Largest allowed distance of a clip's fingerprint from the released one."""

MACHINE_COLUMNS = ("offset", "nbytes", "peak", "rms", "gain_db")
"""Columns of a manifest that depend on the versions of FluidSynth and libFLAC."""

SOUND_SCHEMA = pa.schema([("clip_id", pa.string()), ("sha256", pa.string()), ("fingerprint", pa.binary())])
"""`sound.parquet`: the sha256 of a clip's 16-bit samples, and its fingerprint, 64 float16 (dB), little-endian."""


@dataclass(frozen=True)
class Checksums:
    """Checksums of one test set.

    Args:
        manifest: sha256 of manifest.parquet.
        clip_notes: sha256 of clip_notes.parquet.
        sound_table: sha256 of sound.parquet.
        sound: sha256 of all clips' ids and 16-bit samples (`digest_of_sound`), for this version of FluidSynth.
        shard: sha256 of the tar of FLACs, for this version of FluidSynth and one of libFLAC.
        sources: SoundFont or package of recordings -> sha256.
        fluidsynth: version that rendered the sound.
        triples: number of triples.
    """

    manifest: str
    clip_notes: str
    sound_table: str
    sound: str
    shard: str
    sources: Mapping[str, str]
    fluidsynth: str
    triples: int

    @property
    def digest(self) -> str:
        """sha256 that identifies the set on every machine: of its recipes, notes and fingerprints."""
        return hashlib.sha256(f"{self.manifest} {self.clip_notes} {self.sound_table}".encode()).hexdigest()


@dataclass(frozen=True)
class ReleasedSet:
    """The tables of one test set in git; `sound` is indexed by clip_id."""

    name: str
    folder: Path
    checksums: Checksums
    manifest: pd.DataFrame
    sound: pd.DataFrame

    def notes(self) -> dict[str, Notes]:
        """The notes of every clip that has any, by clip_id."""
        table = read_table(self.folder / "clip_notes.parquet", CLIP_NOTES_SCHEMA)
        return {
            str(clip): Notes(*(rows[name].to_numpy() for name in CLIP_NOTES_SCHEMA.names[1:]))
            for clip, rows in table.groupby("clip_id")
        }


def read_checksums(root: Path) -> dict[str, Checksums]:
    """`checksums.json` of released/testsets.

    Raises:
        TimbreflowError: the file is missing or of another form.
    """
    path = Path(root) / "checksums.json"
    if not path.is_file():
        raise TimbreflowError(f"{path} is missing; run `git checkout {path}`.")
    try:
        return {str(name): Checksums(**fields) for name, fields in read_json(path).items()}
    except (TypeError, AttributeError) as error:
        raise TimbreflowError(f"{path} is not what this version reads ({error}); run `git checkout {path}`.") from error


def write_checksums(root: Path, checksums: Mapping[str, Checksums]) -> None:
    """Write `checksums.json`, sorted by the names of the sets."""
    write_json(Path(root) / "checksums.json", {name: asdict(value) for name, value in checksums.items()})


def read_released(root: Path, name: str) -> ReleasedSet:
    """Read one test set from released/testsets and compare its tables with checksums.json.

    Raises:
        TimbreflowError: there is no such set, or one of its files is missing or changed.
    """
    checksums = read_checksums(root)
    if name not in checksums:
        raise TimbreflowError(f"there is no test set {name!r}; choose from {', '.join(checksums)}.")
    folder, expected = Path(root) / name, checksums[name]
    for stem, digest in (
        ("manifest", expected.manifest),
        ("clip_notes", expected.clip_notes),
        ("sound", expected.sound_table),
    ):
        path = folder / f"{stem}.parquet"
        if not path.is_file():
            raise TimbreflowError(f"{path} is missing; run `git checkout {path}`.")
        if sha256_file(path) != digest:
            raise TimbreflowError(f"{path} does not match checksums.json; run `git checkout {path}`.")
    sound = read_table(folder / "sound.parquet", SOUND_SCHEMA).set_index("clip_id")
    return ReleasedSet(name, folder, expected, read_table(folder / "manifest.parquet", MANIFEST_SCHEMA), sound)


def shard_name(name: str) -> str:
    """Path of a set's only tar, relative to its folder."""
    return f"{name}/shard-00000.tar"


def require_built(folder: Path, released: ReleasedSet) -> None:
    """Check that data/testsets/<name> holds what `timbreflow testset build` makes of the set in git.

    Raises:
        TimbreflowError: the manifest, the notes or the sound is missing or differs.
    """
    remedy = f"run `timbreflow testset build {released.name}`"
    manifest, notes, shard = (
        Path(folder) / file for file in ("manifest.parquet", "clip_notes.parquet", shard_name(released.name))
    )
    for path in (manifest, notes, shard):
        if not path.is_file():
            raise TimbreflowError(f"{path} is missing; {remedy}.")
    same_manifest = sha256_file(manifest) == released.checksums.manifest
    for path, same in (
        (manifest, same_manifest or _same_recipes(manifest, released.manifest)),
        (notes, sha256_file(notes) == released.checksums.clip_notes),
    ):
        if not same:
            raise TimbreflowError(f"{path} is not that of the released test set {released.name}; {remedy}.")
    if same_manifest and sha256_file(shard) == released.checksums.shard:
        return
    # Another FluidSynth or libFLAC made other bytes: the clips must sound the same.
    try:
        _, distances = compare_sound(released, read_flacs(folder))
    except TimbreflowError as error:
        raise TimbreflowError(f"{shard} cannot be read ({error}); {remedy}.") from error
    for clip, distance in distances.items():
        if distance > TOLERANCE_DB:
            raise TimbreflowError(
                f"the clip {clip} in {shard} differs by {distance:.2f} dB from the released test set "
                f"{released.name}; {remedy}."
            )


def read_flacs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """clip_id and FLAC of every clip of a built set, in the order of its manifest."""
    shards = AudioShards(Path(folder), sample_rate=SAMPLE_RATE)
    places = read_table(Path(folder) / "manifest.parquet", MANIFEST_SCHEMA)[["clip_id", "shard", "offset", "nbytes"]]
    return ((clip, shards.read_bytes(*place)) for clip, *place in places.itertuples(index=False))


def compare_sound(released: ReleasedSet, clips: Iterable[tuple[str, bytes]]) -> tuple[dict[str, str], dict[str, float]]:
    """Compare clips, as clip_id and FLAC, with those of a released set.

    Returns:
        The sha256 of each clip's samples, and the log-mel distance (dB) of every clip whose samples differ.
    """
    by_clip, distances = {}, {}
    for clip_id, flac in clips:
        samples = samples_of(flac, clip_id)
        by_clip[clip_id] = sha256_of_samples(samples)
        if by_clip[clip_id] != released.sound.loc[clip_id, "sha256"]:
            distances[clip_id] = fingerprint_distance(fingerprint(samples), released.sound["fingerprint"][clip_id])
    return by_clip, distances


def samples_of(flac: bytes, clip_id: str) -> NDArray[np.int16]:
    """The 16-bit samples [N] of a clip's FLAC."""
    return to_int16(decode_audio(flac, name=f"clip {clip_id}")[0][0])


def sha256_of_samples(samples: NDArray[np.int16]) -> str:
    """sha256 of 16-bit little-endian samples [N]: unlike FLAC's bytes, it is the same for every encoder."""
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()


def digest_of_sound(by_clip: Mapping[str, str]) -> str:
    """sha256 of all clips: of the lines `<clip_id> <sha256>`, sorted."""
    return hashlib.sha256("".join(f"{clip} {by_clip[clip]}\n" for clip in sorted(by_clip)).encode()).hexdigest()


def fingerprint(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Time-averaged log-mel [64] of 16-bit samples [N], in dB."""
    audio = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    with torch.inference_mode():
        log_mel = _extractor()(audio)[0].mean(dim=1).numpy()
    return np.asarray(log_mel * (20 / np.log(10)), np.float32)


def fingerprint_distance(values: NDArray[np.float32], packed: bytes) -> float:
    """Median absolute difference of a fingerprint [64] and a packed one, in dB."""
    return float(np.median(np.abs(values - np.frombuffer(packed, "<f2").astype(np.float32))))


def sound_row(clip_id: str, flac: bytes) -> dict[str, Any]:
    """Row of `sound.parquet` for a clip."""
    samples = samples_of(flac, clip_id)
    packed = fingerprint(samples).astype("<f2").tobytes()
    return {"clip_id": clip_id, "sha256": sha256_of_samples(samples), "fingerprint": packed}


def _same_recipes(path: Path, manifest: pd.DataFrame) -> bool:
    """Whether a manifest equals a released one but for `MACHINE_COLUMNS`."""
    try:
        found = read_table(path, MANIFEST_SCHEMA)
    except TimbreflowError:
        return False
    return found.drop(columns=list(MACHINE_COLUMNS)).equals(manifest.drop(columns=list(MACHINE_COLUMNS)))


@lru_cache(maxsize=1)
def _extractor() -> FeatureExtractor:
    return FeatureExtractor(FINGERPRINT)
