"""What clips of recordings must be like: the tables and suites that take the place of those of rendered clips.

There are no notes and no expected numbers of triples; a recording is a timbre and a piece at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from timbreflow.data.manifest import RECORDED
from timbreflow.validation.config import ValidationConfig
from timbreflow.validation.engine import gx, gxe
from timbreflow.validation.suites import clip_expectations, mels_suite, only, statistics_suite
from timbreflow.validation.tables import START_PRECISION, mel_table

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite


def recording_tables(clips: pd.DataFrame, mels: Path, statistics: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tables by the names of the suites.

    Args:
        clips: the table of `level_table`.
        mels: data/mels.
        statistics: of `statistics_table`.

    Raises:
        TimbreflowError: the features are missing or corrupt.
    """
    return {
        "manifest": clips,
        "pairs": _pairs(clips),
        "recordings": clips[["piece_id", "split"]].drop_duplicates(),
        "splits": clips.drop_duplicates("split")[["split"]],
        "mels": mel_table(mels, clips),
        "statistics": statistics,
    }


def _pairs(clips: pd.DataFrame) -> pd.DataFrame:
    """One row a pair: roles, same_recording and other_sound (the two clips do not overlap)."""
    groups = clips.sort_values("role").groupby("triple_id")
    starts = groups["start"].agg(np.ptp)
    return pd.DataFrame(
        {
            "roles": groups["role"].agg("+".join),
            "same_recording": (groups["piece_id"].nunique() == 1) & (groups["timbre_id"].nunique() == 1),
            "other_sound": starts >= groups["duration"].max() - START_PRECISION,
        }
    ).reset_index()


def recording_suites(
    config: ValidationConfig, n_samples: int, settings: dict[str, int]
) -> "dict[str, ExpectationSuite]":
    """Suites by the names of `recording_tables`.

    Args:
        config: limits.
        n_samples: of every clip.
        settings: sample_rate, hop_length and n_features of the stored features.
    """
    suites = {
        "manifest": [
            *clip_expectations(config, n_samples, n_samples / settings["sample_rate"]),
            only("program", [RECORDED]),
        ],
        "pairs": [only("roles", ["style+target"]), only("same_recording", [True]), only("other_sound", [True])],
        "recordings": [
            gxe.ExpectColumnValuesToBeUnique(column="piece_id"),
            only("split", ["train", "validation"]),
        ],
        "splits": [gxe.ExpectTableRowCountToEqual(value=2)],
        "mels": mels_suite(settings["n_features"], n_samples // settings["hop_length"]),
        "statistics": statistics_suite(settings["n_features"]),
    }
    return {name: gx.ExpectationSuite(name=name, expectations=list(suite)) for name, suite in suites.items()}
