"""The tables beside the audio shards: one row a clip, one row a note."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file

SPLITS = ("train", "validation", "test", "test_seen")
ROLES = ("content", "style", "target")

COUNTERPART = "counterpart"
"""A fourth role: the style's notes with the content's timbre. It closes the square, and each of its four clips then is
the target of a triple."""

SQUARE = (
    ("content", "style", "target"),
    ("target", COUNTERPART, "content"),
    (COUNTERPART, "target", "style"),
    ("style", "content", COUNTERPART),
)
"""Content, style and target of the four triples of a square, by the roles of its clips: with notes A or B and timbre i
or j, content is Ai, style Bj, target Aj and counterpart Bi."""

RECORDED = -1
"""Program of a clip that was cut from a recording."""

MANIFEST_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("triple_id", pa.string()),
        ("split", pa.string()),
        ("role", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("nbytes", pa.int64()),
        ("piece_id", pa.string()),
        ("track", pa.int16()),
        ("start", pa.float32()),
        ("duration", pa.float32()),
        ("transposition", pa.int16()),
        ("timbre_id", pa.string()),
        ("soundfont", pa.string()),
        ("bank", pa.int16()),
        ("program", pa.int16()),
        ("n_layers", pa.int8()),
        ("n_effects", pa.int8()),
        ("timbre", pa.string()),
        ("class_id", pa.string()),
        ("n_onsets", pa.int16()),
        ("n_samples", pa.int32()),
        ("peak", pa.float32()),
        ("rms", pa.float32()),
        ("gain_db", pa.float32()),
    ]
)
"""`manifest.parquet`. shard is relative to data/audio; offset and nbytes (bytes) locate the FLAC inside the tar;
start and duration are seconds in the piece; peak and rms are linear, after scaling."""

CLIP_NOTES_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("onset", pa.float32()),
        ("duration", pa.float32()),
        ("pitch", pa.uint8()),
        ("velocity", pa.uint8()),
    ]
)
"""`clip_notes.parquet`: the notes that sound in a clip, onset and duration in seconds from the clip's start."""

MEL_INDEX_SCHEMA = pa.schema(
    [MANIFEST_SCHEMA.field(name) for name in ("clip_id", "triple_id", "split", "role", "timbre_id", "program", "shard")]
    + [pa.field("row", pa.int32())]
)
"""`index.parquet` of data/mels: shard is relative to data/mels, row is the clip's place in it."""


def write_table(path: Path, rows: Iterable[Mapping[str, Any]] | pd.DataFrame, schema: pa.Schema) -> None:
    """Write rows as Parquet, atomically, with exactly the schema's columns.

    Raises:
        TimbreflowError: a column is missing, or a value does not fit its type.
    """
    try:
        if isinstance(rows, pd.DataFrame):
            table = pa.Table.from_pandas(rows[schema.names], schema=schema, preserve_index=False)
        else:
            rows = list(rows)
            table = pa.table({name: [row[name] for row in rows] for name in schema.names}, schema=schema)
    except KeyError as error:
        raise TimbreflowError(f"{path} cannot be written: column {error} is missing; give every column.") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise TimbreflowError(f"{path} cannot be written: {error}; correct the value.") from error
    # pyarrow takes names of files for UTF-8, which they need not be; an open file has none.
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        # No pandas metadata: it names library versions, and the file's hash should change with its rows alone.
        pq.write_table(table.replace_schema_metadata(None), file, compression="zstd")


def read_table(path: Path, schema: pa.Schema, *, others: bool = False) -> pd.DataFrame:
    """Read a Parquet table and check its columns and their types; `others` keeps further columns.

    Raises:
        TimbreflowError: the file is missing, is not Parquet, or has other columns or types.
    """
    path = Path(path)
    if not path.is_file():
        raise TimbreflowError(f"{path} is missing; run the stage that makes it.")
    try:
        # ParquetFile, not read_table: the latter takes folder names such as split=train for columns.
        with open(path, "rb") as file:
            table = pq.ParquetFile(file).read()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TimbreflowError(f"{path} is not a readable Parquet file; delete it and run its stage again.") from error
    for field in schema:
        index = table.schema.get_field_index(field.name)
        if index < 0:
            raise TimbreflowError(f"{path} lacks the column {field.name}; run its stage again with this version.")
        if table.field(index).type != field.type:
            raise TimbreflowError(
                f"{path} has {table.field(index).type} in the column {field.name} where {field.type} belongs; "
                "run its stage again with this version."
            )
    return (table if others else table.select(schema.names)).to_pandas()


def read_manifest(audio_root: Path) -> pd.DataFrame:
    """`manifest.parquet` of an audio folder; see MANIFEST_SCHEMA."""
    return read_table(Path(audio_root) / "manifest.parquet", MANIFEST_SCHEMA)


def read_clip_notes(audio_root: Path) -> pd.DataFrame:
    """`clip_notes.parquet` of an audio folder; see CLIP_NOTES_SCHEMA."""
    return read_table(Path(audio_root) / "clip_notes.parquet", CLIP_NOTES_SCHEMA)


def write_manifest(audio_root: Path, rows: Iterable[Mapping[str, Any]] | pd.DataFrame) -> None:
    """Write `manifest.parquet`; see MANIFEST_SCHEMA."""
    write_table(Path(audio_root) / "manifest.parquet", rows, MANIFEST_SCHEMA)


def write_clip_notes(audio_root: Path, rows: Iterable[Mapping[str, Any]] | pd.DataFrame) -> None:
    """Write `clip_notes.parquet`; see CLIP_NOTES_SCHEMA."""
    write_table(Path(audio_root) / "clip_notes.parquet", rows, CLIP_NOTES_SCHEMA)


def are_recordings(clips: pd.DataFrame) -> bool:
    """Whether the clips of a manifest or mel index were cut from recordings: pairs of style and target, no notes."""
    return len(clips) > 0 and bool((clips["program"] == RECORDED).all())


def triple_positions(clips: pd.DataFrame, split: str) -> pd.DataFrame:
    """Which rows make a triple, one of each triple_id.

    Args:
        clips: manifest or mel index, with triple_id, split and role, and a plain 0..n-1 index.
        split: train, validation, test or test_seen.

    Returns:
        One row a triple, indexed by triple_id and sorted by it; columns content, style and target hold
        row numbers of `clips`.

    Raises:
        TimbreflowError: the split is empty, a triple lacks a role or has one twice, or the clips are of recordings.
    """
    if are_recordings(clips):
        raise TimbreflowError(
            "The clips are of recordings, which make no triples; only a training whose pairs are self_supervised "
            "can use them."
        )
    return _positions(clips, split, ROLES)


def all_triple_positions(clips: pd.DataFrame, split: str) -> pd.DataFrame:
    """All triples of a split: as `triple_positions`, but four of each triple_id where there is a fourth clip.

    The ids of the four triples of a square end in /0 to /3. In a pair of clips of one recording the target is the
    content too.

    Raises:
        TimbreflowError: the split is empty, or a triple lacks a role or has one twice.
    """
    if are_recordings(clips):
        pairs = _positions(clips, split, ("style", "target"))
        return pairs.assign(content=pairs["target"])[list(ROLES)]
    if not ((clips["split"] == split) & (clips["role"] == COUNTERPART)).any():
        return triple_positions(clips, split)
    squares = _positions(clips, split, (*ROLES, COUNTERPART))
    rows = np.stack([squares[list(roles)].to_numpy() for roles in SQUARE], axis=1).reshape(-1, len(ROLES))
    ids = [f"{name}/{number}" for name in squares.index for number in range(len(SQUARE))]
    return pd.DataFrame(rows, index=pd.Index(ids, name="triple_id"), columns=list(ROLES))


def _positions(clips: pd.DataFrame, split: str, roles: Sequence[str]) -> pd.DataFrame:
    part = clips[clips["split"] == split]
    if part.empty:
        raise TimbreflowError(f"The split {split} holds no clips; render more triples of it.")
    if part.duplicated(["triple_id", "role"]).any():
        raise TimbreflowError(f"A triple of the split {split} has one role twice; run render_triples again.")
    rows = pd.Series(part.index.to_numpy(), index=pd.MultiIndex.from_frame(part[["triple_id", "role"]]))
    table = rows.unstack("role").reindex(columns=list(roles))
    lacking = np.argwhere(table.isna().to_numpy())
    if len(lacking):
        triple, role = table.index[lacking[0, 0]], roles[lacking[0, 1]]
        raise TimbreflowError(f"The triple {triple} of the split {split} lacks its {role}; run render_triples again.")
    return table.astype("int64").sort_index()
