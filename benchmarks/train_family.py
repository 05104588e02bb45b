"""Train the classifier of instrument families that judges outputs; it is frozen before any model is compared.

It is no stage of the pipeline: what it judges by must not change with every run.

    .venv/bin/python -c "from benchmarks.train_family import run; from timbreflow.stages.layout import Layout;
    from pathlib import Path; print(run(layout=Layout(Path.cwd())).summary)"
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from timbreflow.audio.files import decode_audio, resample
from timbreflow.data.manifest import read_manifest
from timbreflow.data.shards import AudioShards
from timbreflow.errors import TimbreflowError
from timbreflow.metrics.family import (
    FAMILIES,
    PROGRAMS_PER_FAMILY,
    FamilyClassifier,
    FamilyConfig,
    fit_family_classifier,
    save_family_classifier,
)
from timbreflow.metrics.signals import SAMPLE_RATE
from timbreflow.metrics.timbre import mfcc_statistics
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult
from timbreflow.workers import worker_count

FOLDER = Path("released") / "family_classifier"
CLIPS_IN_A_JOB = 100
_NAMES = ["shard", "offset", "nbytes"]


def run(
    *,
    layout: Layout,
    config: FamilyConfig | None = None,
    max_clips: int = 20_000,
    folder: Path | None = None,
) -> StageResult:
    """Train on single-layer clips of the split train and store the classifier.

    Args:
        layout: paths; data/audio is read.
        config: shape and training; None takes the defaults.
        max_clips: training clips taken, drawn by the config's seed.
        folder: where the classifier goes; None is released/family_classifier.

    Raises:
        TimbreflowError: there are no clips, or one cannot be read.
    """
    config = config or FamilyConfig()
    place = layout.root / FOLDER if folder is None else folder
    train = _clips(layout.audio, "train", max_clips, config.seed)
    held_out = _clips(layout.audio, "validation", max_clips, config.seed)
    network = fit_family_classifier(_statistics(layout.audio, train), _families(train), config)
    classifier = FamilyClassifier(network, {})
    accuracy = classifier.accuracy(_statistics(layout.audio, held_out), _families(held_out))
    facts = {
        "clips": len(train),
        "timbres": int(train["timbre_id"].nunique()),
        "soundfonts": sorted(train["soundfont"].unique().tolist()),
        "validation_clips": len(held_out),
        "validation_accuracy": round(accuracy, 4),
    }
    save_family_classifier(place, network, config=config, facts=facts)
    return StageResult(
        summary=f"Family classifier: {accuracy:.1%} of {len(held_out)} validation clips, trained on {len(train)} clips "
        f"of {facts['timbres']} timbres; {place}",
        metrics={"validation_accuracy": accuracy},
        files={"weights": place},
    )


def _clips(audio: Path, split: str, limit: int, seed: int) -> pd.DataFrame:
    """Clips of one layer with a General MIDI program: a layered timbre has no family."""
    clips = read_manifest(audio)
    last = len(FAMILIES) * PROGRAMS_PER_FAMILY
    chosen = clips[(clips["split"] == split) & (clips["n_layers"] == 1) & clips["program"].between(0, last - 1)]
    if chosen.empty:
        raise TimbreflowError(f"{audio} has no single-layer clip of the split {split}; run render_triples.")
    chosen = chosen.sort_values("clip_id")
    if len(chosen) > limit:
        chosen = chosen.sample(limit, random_state=seed)
    return chosen.sort_values(["shard", "offset"], ignore_index=True)


def _families(clips: pd.DataFrame) -> NDArray[np.int64]:
    return clips["program"].to_numpy(dtype=np.int64) // PROGRAMS_PER_FAMILY


def _statistics(audio: Path, clips: pd.DataFrame) -> NDArray[np.float64]:
    """MFCC statistics [n, 24] of clips, computed on all cores."""
    places = [(str(shard), int(start), int(size)) for shard, start, size in clips[_NAMES].to_numpy(dtype=object)]
    jobs = [places[start : start + CLIPS_IN_A_JOB] for start in range(0, len(places), CLIPS_IN_A_JOB)]
    workers = min(worker_count(), len(jobs))
    if workers == 1:
        return np.concatenate([_statistics_of(audio, job) for job in jobs])
    # Spawned: a fork of a process that has used torch's threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return np.concatenate(list(pool.map(_statistics_of, [audio] * len(jobs), jobs)))


def _statistics_of(audio: Path, places: list[tuple[str, int, int]]) -> NDArray[np.float64]:
    return np.stack([mfcc_statistics(sound) for sound in _sounds(audio, places)])


def _sounds(audio: Path, places: list[tuple[str, int, int]]) -> Iterator[NDArray[np.float32]]:
    shards = AudioShards(audio)
    for place in places:
        sound, rate = decode_audio(shards.read_bytes(*place), name=f"{audio / place[0]} at byte {place[1]}")
        yield resample(sound[0], rate, SAMPLE_RATE)
