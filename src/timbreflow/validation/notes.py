"""What note tables must be like before anything is rendered from them.

Notes are read file by file, so that a collection of any size fits into memory; the tables that the suites look at have
a row a piece, a track, a file of notes and a contract.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from timbreflow.errors import TimbreflowError
from timbreflow.files import sha256_file
from timbreflow.notes.tables import NOTES, PIECES, TRACKS, NoteTables, parquet_source
from timbreflow.validation.engine import gx, gxe
from timbreflow.validation.history import conclude
from timbreflow.validation.run import run_suites
from timbreflow.validation.suites import SINGLE_PRECISION, between, only, present

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

CONTRACTS = {
    "median pitch": (40.0, 84.0),  # MIDI notes: E2 to C6, the middle of what instruments play
    "1st percentile of pitch": (9.0, 127.0),  # no instrument goes below A-1; 21 is a piano's lowest key
    "99th percentile of pitch": (0.0, 114.0),  # 108 is a piano's highest key, piccolo and glockenspiel go beyond
    "median duration": (0.03, 4.0),  # s: shorter ones are ticks taken for seconds, longer ones seconds for minutes
    "notes a second of a track": (0.1, 40.0),  # mean over pieces; beyond it a tempo was read wrongly
    "mean voices of a track": (1.0, 16.0),  # notes at once while any sounds
    "share of pieces without a pitched track": (0.0, 0.9),
}
"""Distributions that rendering and training rely on: (least, most) of any music, wide enough for each genre."""


def check_notes(notes: Path, *, page: Path, history: Path) -> list[dict[str, str]]:
    """Validate note tables; returns the latest rows of the history, this one first.

    Args:
        notes: folder of the tables.
        page: HTML file that shows what came of it.
        history: CSV file that gets a row.

    Raises:
        InvalidData: an expectation failed; page and history are written.
        TimbreflowError: a table is missing or damaged.
    """
    return conclude(
        run_suites(notes_tables(notes), notes_suites()),
        data="notes",
        digest=_digest(notes),
        page=page,
        history=history,
        remedy="then correct collect_midi.sources of params.yaml or the files there and collect the notes again",
    )


def notes_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Tables by the names of the suites.

    Raises:
        TimbreflowError: a table is missing or damaged.
    """
    tables = NoteTables.read(folder)
    pieces, tracks = tables.pieces, tables.tracks
    counts = tracks.groupby("piece_id")["n_notes"].agg(["size", "sum"]).reindex(pieces["piece_id"])
    pieces = pieces.assign(
        tracks_there=counts["size"].fillna(0).to_numpy(int), notes_promised=counts["sum"].fillna(0).to_numpy(int)
    )
    tracks = tracks.assign(known_piece=tracks["piece_id"].isin(pieces["piece_id"]))
    seconds = pieces.drop_duplicates("piece_id").set_index("piece_id")["duration"]
    files, pitches, durations = [], np.zeros(256, np.int64), []
    for promised in sorted(folder.glob("tracks-?????.parquet")):  # so that a file of notes that is missing is noticed
        row, of_pitch, lengths = _file_row(promised, seconds)
        files.append(row)
        pitches += of_pitch
        durations.append(lengths)
    return {
        "pieces": pieces,
        "tracks": tracks,
        "notes": pd.DataFrame(files),
        "contracts": _contracts(pieces, tracks, pitches, durations),
    }


def notes_suites() -> "dict[str, ExpectationSuite]":
    """Suites by the names of `notes_tables`."""
    suites = {
        "pieces": [
            *present(PIECES.names),
            gxe.ExpectTableRowCountToBeBetween(min_value=3),  # for training, validation and test
            gxe.ExpectColumnValuesToBeUnique(column="piece_id"),
            gxe.ExpectColumnValuesToMatchRegex(column="piece_id", regex="^[0-9a-f]{16}$"),
            gxe.ExpectColumnValuesToBeBetween(column="duration", min_value=0, strict_min=True),
            between("n_notes", 1, None),
            gxe.ExpectColumnPairValuesToBeEqual(column_A="n_tracks", column_B="tracks_there"),
            gxe.ExpectColumnPairValuesToBeEqual(column_A="n_notes", column_B="notes_promised"),
        ],
        "tracks": [
            *present(TRACKS.names),
            gxe.ExpectCompoundColumnsToBeUnique(column_list=["piece_id", "track"]),
            only("known_piece", [True]),
            between("program", -1, 127),
            between("n_notes", 1, None),
            between("mean_pitch", 0, 127),
            between("voices", 1 - SINGLE_PRECISION, 128),
        ],
        "notes": [
            gxe.ExpectColumnPairValuesToBeEqual(column_A="n_notes", column_B="promised"),
            only("finite", [True]),
            only("known_pieces", [True]),
            only("in_time", [True]),
            between("first_onset", 0, None),
            gxe.ExpectColumnValuesToBeBetween(column="shortest", min_value=0, strict_min=True),
            between("highest_pitch", 0, 127),
            between("softest", 1, 127),
            between("loudest", 1, 127),
        ],
        "contracts": [only("contract", list(CONTRACTS)), only("kept", [True])],
    }
    return {name: gx.ExpectationSuite(name=name, expectations=list(suite)) for name, suite in suites.items()}


def _file_row(tracks: Path, seconds: "pd.Series[float]") -> tuple[dict[str, object], np.ndarray, np.ndarray]:
    """What the notes beside `tracks` are, how many a pitch [256], and the lengths of every hundredth one, in s."""
    path = tracks.with_name(tracks.name.replace("tracks-", "notes-"))
    try:
        table = pq.ParquetFile(parquet_source(path)).read(columns=NOTES.names)
        promised = pq.read_table(parquet_source(tracks))["n_notes"]
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise TimbreflowError(f"{path} cannot be read as a table of notes ({error}); collect them again.") from error
    onset, duration = (table[name].to_numpy().astype(np.float64) for name in ("onset", "duration"))
    pitch, velocity = table["pitch"].to_numpy(), table["velocity"].to_numpy()
    names = table["piece_id"].combine_chunks().dictionary_encode()
    ends_at = seconds.reindex(names.dictionary.to_pandas()).to_numpy(np.float64)
    late = onset + duration > ends_at[names.indices.to_numpy(zero_copy_only=False)] * (1 + 1e-6) + SINGLE_PRECISION
    row: dict[str, object] = {
        "file": path.name,
        "n_notes": len(onset),
        "promised": int(np.sum(promised.to_numpy())),
        "finite": bool(np.isfinite(onset).all() and np.isfinite(duration).all()),
        "known_pieces": bool(np.isfinite(ends_at).all()),
        "in_time": not late.any(),
        "first_onset": float(onset.min(initial=np.inf)),
        "shortest": float(duration.min(initial=np.inf)),
        "highest_pitch": int(pitch.max(initial=0)),
        "softest": int(velocity.min(initial=127)),
        "loudest": int(velocity.max(initial=1)),
    }
    return row, np.bincount(pitch, minlength=256), duration[::100]


def _contracts(
    pieces: pd.DataFrame, tracks: pd.DataFrame, pitches: np.ndarray, durations: Sequence[np.ndarray]
) -> pd.DataFrame:
    """One row a contract: what is seen, least, most, and kept."""
    total = max(1, int(pitches.sum()))
    low, middle, high = (int(np.searchsorted(np.cumsum(pitches) / total, share)) for share in (0.01, 0.5, 0.99))
    lengths = np.concatenate([*durations, np.zeros(0)])
    per_track = tracks.merge(pieces[["piece_id", "duration"]], on="piece_id")
    pitched = tracks[~tracks["is_drum"].astype(bool)]
    seen = (
        float(middle),
        float(low),
        float(high),
        float(np.median(lengths)) if len(lengths) else 0.0,
        float((per_track["n_notes"] / per_track["duration"]).mean()),
        float(tracks["voices"].mean()),
        1 - pitched["piece_id"].nunique() / max(1, len(pieces)),
    )
    rows = [
        (name, value, least, most, bool(least <= value <= most))
        for (name, (least, most)), value in zip(CONTRACTS.items(), seen, strict=True)
    ]
    return pd.DataFrame(rows, columns=["contract", "seen", "least", "most", "kept"])


def _digest(folder: Path) -> str:
    """sha256 over names and contents of the tables."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.parquet")):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
