"""An evaluation as files: per_clip.parquet, timing.json and the kept sounds."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow

from timbreflow.audio.files import read_audio, write_audio
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.evaluate import Evaluation, Example, Timing
from timbreflow.files import atomic_file, read_json, write_json

TABLE = "per_clip.parquet"
TIMING = "timing.json"
EXAMPLES = "examples"
INDEX = "index.json"


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write FOLDER/{per_clip.parquet, timing.json}, and examples/ where sounds were kept."""
    with atomic_file(folder / TABLE) as temporary:
        evaluation.table.to_parquet(temporary, index=False)
    write_json(folder / TIMING, {name: asdict(entry) for name, entry in evaluation.timing.items()})
    index = []
    for example in evaluation.examples:
        save_sounds(folder / EXAMPLES / example.triple_id, example)
        facts = {key: value for key, value in vars(example).items() if key not in ("sounds", "sample_rate")}
        index.append({**facts, "sounds": list(example.sounds)})
    if index:
        write_json(folder / EXAMPLES / INDEX, index)


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Raises:
        TimbreflowError: a file is missing or broken.
    """
    timing = {name: Timing(**entry) for name, entry in read_json(folder / TIMING).items()}
    index = read_json(folder / EXAMPLES / INDEX) if (folder / EXAMPLES / INDEX).is_file() else []
    examples = []
    for facts in index:
        sounds = {}
        for name in facts.pop("sounds"):
            sound, rate = read_audio(_place(folder / EXAMPLES / facts["triple_id"], name, ".flac"))
            sounds[name] = sound[0]
        examples.append(Example(**facts, sample_rate=rate, sounds=sounds))
    return Evaluation(read_table(folder), timing, examples)


def read_table(folder: Path) -> pd.DataFrame:
    """Read FOLDER/per_clip.parquet.

    Raises:
        TimbreflowError: it is missing or broken.
    """
    path = folder / TABLE
    if not path.is_file():
        raise TimbreflowError(f"{path} is missing; evaluate again.")
    try:
        return pd.read_parquet(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise TimbreflowError(f"{path} is no table that can be read ({error}); evaluate again.") from error


def save_sounds(stem: Path, example: Example, *, suffix: str = ".flac") -> None:
    """Write the sounds of a triple as STEM-NAME.flac or another format; those beyond full scale are scaled down."""
    for name, sound in example.sounds.items():
        peak = float(np.abs(sound).max(initial=0.0))
        write_audio(_place(stem, name, suffix), sound / peak * 0.99 if peak > 1.0 else sound, example.sample_rate)


def _place(stem: Path, name: str, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}-{name}{suffix}")
