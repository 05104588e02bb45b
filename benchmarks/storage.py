"""How much room the data takes, what eight bits instead of sixteen change, and whether a run doubles anything.

Renders triples with the settings of params.yaml (the scores and the SoundFont that every checkout has), extracts
log-mels in half precision and in 8 bits, and puts all under DVC as the pipeline does, with the cache of .dvc/config.
Printed are bytes a clip as `du` counts them, the projection to the 241,000 segments of the 2021 paper, the largest
room that the run took at any moment over what its data takes in the end, and what 8 bits do to the sound: the error of
the features in dB, and the LSD and the timbre distance to the true clip after Griffin-Lim, beside those of half
precision. The last line is JSON.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_data import ROOT, prepare, small_params

from timbreflow.audio.inversion import GriffinLimInverter
from timbreflow.data.manifest import read_manifest
from timbreflow.data.mels import MelShards, read_mel_index
from timbreflow.data.quantization import Quantization
from timbreflow.data.shards import AudioShards
from timbreflow.metrics.lsd import lsd
from timbreflow.metrics.timbre import mfcc_distance
from timbreflow.stages.layout import Layout

SEGMENTS = 241_000
"""8 s segments of Cífka et al. 2021: two each for 118,948 training pairs, and the validation and test pairs."""
DECIBELS = 20 / np.log(10)
"""Of one nat."""


def main() -> int:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="timbreflow-storage-", dir=options.work) as folder:
        print(json.dumps(measure(Path(folder), options.triples, options.clips)))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Bytes a clip, what 8 bits change, and the peak of a run.")
    parser.add_argument("--triples", type=int, default=1000, help="triples rendered (%(default)s)")
    parser.add_argument("--clips", type=int, default=24, help="clips whose sound is compared (%(default)s)")
    parser.add_argument("--work", type=Path, help="folder for the work, removed afterwards (default: a temporary one)")
    options = parser.parse_args()
    if options.triples < 1 or options.clips < 1:
        parser.error("--triples and --clips must be 1 or more")
    return options


def measure(root: Path, triples: int, n_clips: int) -> dict[str, Any]:
    """All figures.

    Args:
        root: empty folder.
        triples: rendered.
        n_clips: whose sound is compared.
    """
    params = small_params(triples)
    half, eight = (dataclasses.replace(params.extract_mels, storage=name) for name in ("float16", "uint8"))
    _say(f"rendering {triples} triples and extracting")
    with _Peak(root) as peak:
        layout = prepare(root, params, mels=half)
        _put_under_dvc(root)
    after = _used(root)
    shutil.copytree(root / "data" / "mels", root / "half", symlinks=False)
    _say("extracting in 8 bits")
    other = Layout(root / "eight")
    shutil.copytree(layout.audio, other.audio)
    shutil.copytree(layout.notes, other.notes)
    prepare(other.root, params, mels=eight)
    n = len(read_manifest(layout.audio))
    room = {
        "flac_shards": _used(layout.audio / "train"),
        "manifest_and_notes_of_clips": _used(layout.audio) - _used(layout.audio / "train"),
        "half_precision_mels": _used(root / "half"),
        "8_bit_mels": _used(other.mels),
    }
    notes = _used(layout.notes)
    projected = {name: used / n * SEGMENTS / 1e9 for name, used in room.items()}
    reads = projected["manifest_and_notes_of_clips"] + notes / 1e9
    data = _used(layout.data)
    return {
        "triples": triples,
        "clips": n,
        "bytes_a_clip": {name: round(used / n) for name, used in room.items()},
        "note_tables_bytes": notes,
        "projection_gb_of_241000_segments": {
            **{name: round(used, 2) for name, used in projected.items()},
            "training_reads_half_precision": round(reads + projected["half_precision_mels"], 2),
            "training_reads_8_bit": round(reads + projected["8_bit_mels"], 2),
        },
        "peak_over_data": round(peak.largest / data, 3),
        "after_dvc_over_data": round(after / data, 3),
        "dvc_links": _links(root),
        "8_bit_against_half_precision": _compare(layout, root / "half", other.mels, n_clips),
    }


class _Peak:
    """The largest room that a folder takes while the context is open."""

    def __init__(self, root: Path) -> None:
        self.largest = 0
        self._root = root
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Peak":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.largest = max(self.largest, _used(self._root))

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self.largest = max(self.largest, _used(self._root))


def _used(folder: Path) -> int:
    """Bytes on disk; a file with several names counts once, as in `du`."""
    seen: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(place, name))
            except FileNotFoundError:  # moved or removed at this moment
                continue
            seen[found.st_dev, found.st_ino] = 512 * found.st_blocks
    return sum(seen.values())


def _put_under_dvc(root: Path) -> None:
    """`dvc add` of the data folders with this project's settings of the cache."""
    _say("putting the data under DVC")
    settings = (ROOT / ".dvc" / "config").read_text().replace("[core]", "[core]\n    no_scm = True")
    for words in (["init", "--no-scm"], ["add", "data/notes", "data/audio", "data/mels"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True, capture_output=True)
        (root / ".dvc" / "config").write_text(settings)


def _links(root: Path) -> bool:
    """Whether every large file of data/ is the cache's own, by another name or by a link."""
    files = [path for path in (root / "data").rglob("*") if path.is_file() and path.stat().st_size > 2**20]
    cached = {path.stat().st_ino for path in (root / ".dvc" / "cache").rglob("*") if path.is_file()}
    return bool(files) and all(path.stat().st_ino in cached for path in files)


def _compare(layout: Layout, half: Path, eight: Path, n_clips: int) -> dict[str, float]:
    """What rounding to 8 bits does to features, and to the sound that Griffin-Lim makes of them."""
    params = small_params(1)
    levels = Quantization.of(params.audio)
    index = read_mel_index(half)
    manifest = read_manifest(layout.audio).set_index("clip_id")
    sound = AudioShards(layout.audio, sample_rate=params.audio.sample_rate)
    invert = GriffinLimInverter(params.audio, n_iter=32, momentum=0.99)
    shards = {"half": MelShards(half), "eight": MelShards(eight)}
    errors, figures = [], {name: list[tuple[float, float]]() for name in shards}
    chosen = index.iloc[np.linspace(0, len(index) - 1, min(n_clips, len(index))).astype(int)]
    for clip_id, shard, row in chosen[["clip_id", "shard", "row"]].itertuples(index=False):
        true = sound.read(*manifest.loc[clip_id, ["shard", "offset", "nbytes"]])
        found = {
            "half": np.asarray(shards["half"].read(shard, row), np.float32),
            "eight": levels.decode(shards["eight"].read(shard, row)),
        }
        errors.append(DECIBELS * np.abs(found["half"] - found["eight"]))
        for name, features in found.items():
            made = invert(torch.from_numpy(features)[None])[0].numpy()
            figures[name].append((lsd(made, true[: len(made)]), mfcc_distance(made, true[: len(made)])))
    error = np.stack(errors)
    result = {
        "clips": float(len(errors)),
        "mean_error_db": float(error.mean()),
        "rms_error_db": float(np.sqrt(np.square(error).mean())),
        "largest_error_db": float(error.max()),
    }
    for place, metric in enumerate(("lsd", "timbre_mfcc")):
        for name, rows in figures.items():
            result[f"{metric}_{name}"] = statistics.fmean(row[place] for row in rows)
        result[f"{metric}_mean_absolute_change"] = statistics.fmean(
            abs(a[place] - b[place]) for a, b in zip(figures["half"], figures["eight"], strict=True)
        )
    return {name: round(value, 5) for name, value in result.items()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
