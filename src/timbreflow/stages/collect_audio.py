"""Own recordings to clips for self-supervised training: the work of `timbreflow collect RECORDINGS… --out DIR`.

It writes what render_triples does, audio shards and their manifest, without notes: each recording is a timbre of its
own, and two clips of one recording make a pair, style and target. Recordings are brought to the training level.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timbreflow.audio.files import READABLE, encode_flac, rms_dbfs
from timbreflow.data.manifest import (
    RECORDED,
    are_recordings,
    read_manifest,
    write_clip_notes,
    write_manifest,
    write_table,
)
from timbreflow.data.shards import write_shard
from timbreflow.data.splits import piece_split
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, link_or_copy, read_json, sha256_file, stable_hash, write_json
from timbreflow.inference.streaming.recordings import open_recording
from timbreflow.notes.sources.files import clean_text, files_below, is_music
from timbreflow.notes.tables import REJECTS
from timbreflow.rendering.config import SplitFractions
from timbreflow.stages.result import StageResult
from timbreflow.stages.unfinished import unfinished, writing
from timbreflow.workers import worker_count

_VERSION = 2
"""Raise it when the same files come to mean other clips, so that half-finished work of before is not reused."""


@dataclass(frozen=True)
class Cut:
    """How recordings are cut; clips whose RMS at training level is below `silent_dbfs` are left out."""

    sample_rate: int
    clip_seconds: float
    silent_dbfs: float

    @property
    def n_samples(self) -> int:
        """Samples of a clip."""
        return round(self.clip_seconds * self.sample_rate)


def is_recording(path: Path) -> bool:
    """Whether a file has the ending of a sound file; "._name" is a Mac's note about the file, not the file."""
    return path.suffix.lower() in READABLE and not path.name.startswith("._")


def holds_recordings(source: str) -> bool:
    """Whether a source is a sound file, or a folder with some and without MIDI files or scores."""
    path = Path(os.path.expanduser(source))
    if not path.is_dir():
        return path.is_file() and is_recording(path)
    files = [file for file, why in files_below(path) if not why]
    return any(map(is_recording, files)) and not any(is_music(file.name) for file in files)


def collect(
    sources: Sequence[str], out: Path, cut: Cut, splits: SplitFractions, *, workers: int | None = None
) -> StageResult:
    """Write clips, manifest.parquet, an empty clip_notes.parquet and rejects.parquet to a folder, such as data/audio.

    The split of a recording follows from the bytes of its file, by the fraction of validation pieces alone; where that
    leaves validation or training empty, one recording goes there.

    Folders are searched through all their subfolders; `out` is replaced where it holds clips of recordings.

    Raises:
        TimbreflowError: `out` holds something else, or another process collects into it; fewer than two recordings can
            be used; the disk is full. What was read is kept beside `out` for the next call.
    """
    out = Path(out)
    _refuse_foreign(out)
    found = {file: why for source in sources for file, why in _files(Path(os.path.expanduser(source)))}
    others = {file: why for file, why in found.items() if why}
    files = sorted(found.keys() - others.keys())
    states = [(clean_text(str(file)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    out.parent.mkdir(parents=True, exist_ok=True)
    key = f"{stable_hash(_VERSION, cut.sample_rate, cut.clip_seconds, cut.silent_dbfs, states):016x}"
    with unfinished(out, key) as scratch:
        folders = [scratch / f"{number:05d}" for number in range(len(files))]
        with writing(out), ThreadPoolExecutor(worker_count() if workers is None else workers) as pool:
            try:
                list(pool.map(partial(_collect_file, cut=cut), files, folders))
            finally:
                pool.shutdown(cancel_futures=True)
        with writing(out), atomic_directory(out) as temporary:
            return _merge(files, folders, others, temporary, out, splits)


def _files(source: Path) -> Iterator[tuple[Path, str]]:
    """Files of a source, each with the reason why it is passed over, or an empty one."""
    for file, why in files_below(source) if source.is_dir() else [(source, "")]:
        yield file, why or ("" if is_recording(file) else "files of its kind are not read")


def _refuse_foreign(out: Path) -> None:
    """Replacing a folder deletes what is in it, so only folders that hold clips of recordings may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    with suppress(TimbreflowError):
        if are_recordings(read_manifest(out)):
            return
    raise TimbreflowError(f"{out} holds something else than clips of recordings; remove it, or name a new folder.")


def _collect_file(file: Path, folder: Path, *, cut: Cut) -> None:
    """Write the clips of one file to `folder`, or only why there are none; returns at once when that was done before.

    A folder holds clips.tar, notes.json and manifest.parquet, whose split and shard are set when all are joined, or
    reject.json.
    """
    if folder.exists():
        return
    with atomic_directory(folder) as temporary:
        try:
            rows, clips, notes = _clips(file, _recording_id(file), cut)
        except TimbreflowError as error:
            write_json(temporary / "reject.json", {"reason": "broken", "detail": clean_text(str(error))})
            return
        if not rows:
            detail = f"fewer than two parts of {cut.clip_seconds:g} s of it are louder than {cut.silent_dbfs:g} dBFS."
            write_json(temporary / "reject.json", {"reason": "too_few_clips", "detail": detail})
            return
        places = {entry.clip_id: entry for entry in write_shard(temporary / "clips.tar", clips.items())}
        for row in rows:
            place = places[row["clip_id"]]
            row |= {"offset": place.offset, "nbytes": place.nbytes}
        write_manifest(temporary, rows)
        write_json(temporary / "notes.json", [clean_text(note) for note in notes])


def _recording_id(file: Path) -> str:
    try:
        return sha256_file(file)[:16]
    except OSError as error:
        raise TimbreflowError(f"{file} cannot be read ({error.strerror or error}); make it readable.") from error


def _clips(file: Path, recording_id: str, cut: Cut) -> tuple[list[dict[str, Any]], dict[str, bytes], tuple[str, ...]]:
    """Rows of the manifest, FLACs by clip id, and notes on the file; pairs are half a recording apart."""
    recording = open_recording(file, minimum_seconds=2 * cut.clip_seconds)
    found: list[dict[str, Any]] = []
    clips: dict[str, bytes] = {}
    for number, audio in enumerate(_stretches(recording.mono(cut.sample_rate), cut.n_samples)):
        if rms_dbfs(audio) < cut.silent_dbfs:
            continue
        clip_id = f"{recording_id}-{number:05d}"
        clips[clip_id] = encode_flac(audio, cut.sample_rate)
        found.append(
            {
                "clip_id": clip_id,
                "start": number * cut.clip_seconds,
                "peak": min(1.0, float(np.abs(audio).max())),
                "rms": float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))),
            }
        )
    half = len(found) // 2
    common: dict[str, Any] = {
        "split": "",
        "shard": "",
        "piece_id": recording_id,
        "track": 0,
        "duration": cut.clip_seconds,
        "transposition": 0,
        "timbre_id": recording_id,
        "soundfont": "",
        "bank": 0,
        "program": RECORDED,
        "n_layers": 0,
        "n_effects": 0,
        "timbre": clean_text(str(file)),
        "class_id": "recording",
        "n_onsets": 0,
        "n_samples": cut.n_samples,
        "gain_db": float(20 * np.log10(recording.gain)),
    }
    rows = []
    for number in range(half):
        pair = (found[number], found[number + half])
        # In turn, or the end of a recording would never be a target.
        style, target = pair if number % 2 == 0 else pair[::-1]
        names = common | {"triple_id": f"{recording_id}-{number:05d}"}
        rows += [names | style | {"role": "style"}, names | target | {"role": "target"}]
    return rows, {row["clip_id"]: clips[row["clip_id"]] for row in rows}, recording.notes


def _stretches(blocks: Iterator[np.ndarray], n_samples: int) -> Iterator[np.ndarray]:
    """[n] blocks as parts of [n_samples]; what is left at the end is dropped."""
    held = np.zeros(0, np.float32)
    for block in blocks:
        held = np.concatenate((held, block))
        while len(held) >= n_samples:
            yield held[:n_samples]
            held = held[n_samples:]


def _merge(  # noqa: PLR0917 - lists of one length, and where to
    files: Sequence[Path],
    folders: Sequence[Path],
    others: Mapping[Path, str],
    temporary: Path,
    out: Path,
    splits: SplitFractions,
) -> StageResult:
    """Join the recordings, those with equal bytes once, and write the tables; `others` are passed over, and why."""
    paths: dict[str, str] = {}
    found: dict[str, tuple[Path, pd.DataFrame]] = {}
    rejects: list[dict[str, str]] = []
    notes: list[dict[str, str]] = []
    for file, folder in zip(files, folders, strict=True):
        path = clean_text(str(file))
        if (folder / "reject.json").exists():
            rejects.append({"source": "recordings", "path": path, **read_json(folder / "reject.json")})
            continue
        manifest = read_manifest(folder)
        recording_id = str(manifest["piece_id"].iloc[0])
        if recording_id in found:
            detail = f"it is the same file as {paths[recording_id]}."
            rejects.append({"source": "recordings", "path": path, "reason": "duplicate", "detail": detail})
            continue
        paths[recording_id] = path
        notes += [{"path": path, "detail": note} for note in read_json(folder / "notes.json")]
        found[recording_id] = (folder, manifest)
    reasons = Counter(reject["reason"] for reject in rejects)
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    if len(found) < 2:
        why = f"; {rejects[0]['path']}: {rejects[0]['detail']}" if rejects else "."
        raise TimbreflowError(
            f"{len(found)} of {len(files)} recordings can be used, and two are needed, for training and validation{why}"
        )
    rejects += [
        {"source": "recordings", "path": clean_text(str(file)), "reason": "passed_over", "detail": f"{others[file]}."}
        for file in sorted(others)
    ]
    split_of = _splits(sorted(found), splits.validation_pieces)
    manifests = []
    for recording_id in sorted(found, key=lambda name: (split_of[name] != "train", name)):
        folder, manifest = found[recording_id]
        shard = f"{split_of[recording_id]}/{recording_id}.tar"
        (temporary / shard).parent.mkdir(exist_ok=True)
        link_or_copy(folder / "clips.tar", temporary / shard)
        manifests.append(manifest.assign(split=split_of[recording_id], shard=shard))
    clips = pd.concat(manifests, ignore_index=True)
    write_manifest(temporary, clips)
    write_clip_notes(temporary, [])
    write_table(temporary / "rejects.parquet", rejects, REJECTS)
    pairs = clips.drop_duplicates("triple_id")["split"].value_counts()
    hours = float(clips["duration"].sum()) / 3600
    return StageResult(
        summary=(
            f"{len(found)} recordings, {len(clips)} clips ({hours:.2f} h), {pairs['train']} pairs for training and "
            f"{pairs['validation']} for validation; {reasons.total()} files rejected"
            f"{f' ({counted})' if counted else ''}{f'; {len(others)} passed over' if others else ''}."
        ),
        metrics={"recordings": float(len(found)), "clips": float(len(clips)), "rejects": float(reasons.total())},
        tables={
            "rejects": [
                {"reason": reason, "files": len(group), "such as": " ".join(group[:3])}
                for reason, group in _by_reason(rejects).items()
            ],
            "notes": notes,
        },
        files={"clips": out},
    )


def _by_reason(rejects: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for reject in rejects:
        groups.setdefault(reject["reason"], []).append(f"{reject['path']}: {reject['detail']}")
    return groups


def _splits(recordings: Sequence[str], fraction: float) -> dict[str, str]:
    """`train` or `validation` for each of two or more recordings, neither of them empty."""
    fractions = SplitFractions(fraction, 0.0, 0.0, 0.0)
    found = {name: piece_split(name, fractions) for name in recordings}
    ranked = sorted(recordings, key=lambda name: stable_hash("piece", name))
    for split, name in (("validation", ranked[-1]), ("train", ranked[0])):
        if split not in found.values():
            found[name] = split
    return found
