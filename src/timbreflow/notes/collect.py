"""Sources to note tables: planned as shards, read one by one, merged with duplicates dropped.

Files are grouped by `files_per_shard`. A tar can only be read from its beginning, so it is one shard, whose parts are
read by several processes and kept when a run is killed (`notes/parts.py`).
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from timbreflow.errors import TimbreflowError
from timbreflow.notes.parts import BATCH_BYTES, BATCH_FILES, part_folders, read_parts
from timbreflow.notes.pieces import ReadLimits
from timbreflow.notes.sources.archives import Item, Share, count_members, read_items
from timbreflow.notes.sources.catalogue import CATALOGUE
from timbreflow.notes.sources.files import Container, clean_text, containers
from timbreflow.notes.tables import REJECTS, SCHEMAS, parquet_source, table_file
from timbreflow.notes.writer import TableWriter

_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class CollectConfig(ReadLimits):
    """Section `collect_midi` of params.yaml: limits of a file (see `ReadLimits`), and which files are read.

    Attributes:
        sources: names of corpora (`music21`, `music21/bach`, `freedoom`, ...) and paths, relative to the checkout.
        fractions: of a source named here only this share of its files, 0 to 1, chosen by a stable hash of the path.
        leave_out: files that are not taken, as source/path: other editions of pieces that a test set plays.
        files_per_shard: files that one worker reads at a time.
    """

    sources: tuple[str, ...]
    fractions: dict[str, float]
    leave_out: tuple[str, ...]
    files_per_shard: int

    def __post_init__(self) -> None:
        """Refuse limits that no file could keep."""
        if not self.sources:
            raise TimbreflowError("collect_midi.sources names no source; list a corpus or a path.")
        for name in (*(limit.name for limit in fields(ReadLimits)), "files_per_shard"):
            if not getattr(self, name) > 0:
                raise TimbreflowError(f"collect_midi.{name} is {getattr(self, name)}; set it above 0.")

    @property
    def limits(self) -> ReadLimits:
        """The limits alone, for the process that reads a file."""
        return ReadLimits(**{limit.name: getattr(self, limit.name) for limit in fields(ReadLimits)})


@dataclass(frozen=True)
class ShardPlan:
    """What one worker reads: some files, or a share of one archive."""

    source: str
    containers: tuple[Container, ...]
    share: Share

    @property
    def is_tar(self) -> bool:
        """Whether it is a whole tar, which may be large."""
        return self.containers[0].kind == "tar"


@dataclass(frozen=True)
class Totals:
    """Numbers of a finished collection.

    Attributes:
        n_pieces: that were read.
        n_tracks: of them.
        n_notes: of them.
        hours: the length of all pieces.
        rejects: files by reason.
        examples: of each reason, the first files with what is wrong with them.
    """

    n_pieces: int = 0
    n_tracks: int = 0
    n_notes: int = 0
    hours: float = 0.0
    rejects: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)


def plan_shards(config: CollectConfig, *, root: Path, corpora: Path) -> list[ShardPlan]:
    """Shards of all sources, in their order; lists folders and the directories of .zip files, opens nothing else.

    Args:
        config: the section of params.yaml.
        root: what relative paths are relative to.
        corpora: folder of fetched corpora.

    Raises:
        TimbreflowError: there is no source, or one does not exist or holds no music file.
    """
    for source, fraction in config.fractions.items():
        if source not in config.sources or not 0 < fraction <= 1:
            raise TimbreflowError(f"fraction {source}: {fraction} must name one of the sources and lie in (0, 1].")
    shards = []
    for source in dict.fromkeys(config.sources):
        found = containers(source, root=root, corpora=corpora)
        fraction = config.fractions.get(source, 1.0)
        others = tuple(container for container in found if container.kind == "other")
        files = [container for container in found if container.kind == "file"]
        for first in range(0, len(files), config.files_per_shard):
            group = tuple(files[first : first + config.files_per_shard])
            shards.append(ShardPlan(source, group, Share(fraction=fraction)))
        if others and source not in CATALOGUE:
            shards.append(ShardPlan(source, others, Share()))
        for archive in found:
            if archive.kind not in ("file", "other"):
                # The directory of a .zip makes skipping free; others are one share.
                parts = -(-count_members(archive) // config.files_per_shard)
                shards += [ShardPlan(source, (archive,), Share(part, parts, fraction)) for part in range(parts)]
    return shards


def fingerprint(shards: Iterable[ShardPlan]) -> list[list[str | int]]:
    """What tells one state of the sources from another: label, size and time of change of every file, as JSON."""
    states: list[list[str | int]] = [["batches", BATCH_FILES, BATCH_BYTES, str(SCHEMAS["notes"])]]
    for shard in shards:
        states.append([clean_text(shard.source), shard.share.part, shard.share.parts])
        for container in shard.containers:
            try:
                status = os.lstat(container.path) if container.kind == "other" else os.stat(container.path)
            except OSError as error:
                raise TimbreflowError(f"{container.path} vanished while it was to be read; start again.") from error
            states.append([clean_text(container.label), status.st_size, status.st_mtime_ns])
    return states


def collect_shard(shard: ShardPlan, folder: Path, config: CollectConfig, *, workers: int = 1) -> None:
    """Read one shard into parts, folders of note tables in `folder`; no bad file stops it.

    What is read so far lies in a folder beside it, which the next call goes on with.

    Args:
        shard: what to read.
        folder: is there when all is read, and not before; returns at once then.
        config: limits, and files to leave out.
        workers: processes to read with.

    Raises:
        TimbreflowError: the disk is full, or processes are killed from outside.
    """
    if folder.exists():
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    items = _items(shard, config.max_bytes)
    read_parts(shard.source, items, unfinished, config.limits, left_out=config.leave_out, workers=workers)
    os.replace(unfinished, folder)


def _items(shard: ShardPlan, max_bytes: int) -> Iterator[Item]:
    for container in shard.containers:
        for item in read_items(container, max_bytes=max_bytes, share=shard.share):
            # Of a known corpus it is known what else is in it.
            if not (shard.source in CATALOGUE and item.reject and item.reject.reason == "passed_over"):
                yield item


def merge_shards(shards: Sequence[ShardPlan], folders: Sequence[Path], out: Path, config: CollectConfig) -> Totals:
    """Join the tables of all shards, in their order, dropping pieces that an earlier shard holds too.

    The parts of a tar stay files of their own, so that those of Lakh are not written a second time.

    Args:
        shards: the plans.
        folders: one a shard, as `collect_shard` left them.
        out: an empty folder for the result.
        config: for the names of the sources, when there is nothing in them.

    Raises:
        TimbreflowError: no piece is left; the message counts the reasons. Or a table of a shard is damaged.
    """
    first_file: dict[int, str] = {}
    rejects: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    n_tracks, n_notes, seconds = 0, 0, 0.0
    with TableWriter(out) as writer:
        for shard, folder in zip(shards, folders, strict=True):
            for part in part_folders(folder):
                pieces = _unfinished(part, "pieces")
                duplicates = _duplicates(pieces, first_file)
                if shard.is_tar and not len(duplicates):
                    tables = {name: _unfinished(part, name) for name in ("tracks", "rejects")}
                    n_notes += _unfinished(part, "notes", pq.read_metadata).num_rows
                    writer.adopt(part)
                else:
                    others = {name: _unfinished(part, name) for name in SCHEMAS if name != "pieces"}
                    tables = _without({"pieces": pieces, **others}, duplicates)
                    writer.add(tables)
                    pieces = tables["pieces"]
                    n_notes += len(tables["notes"])
                n_tracks += len(tables["tracks"])
                seconds += float(np.sum(pieces.column("duration").to_numpy(), dtype=np.float64))
                for row in tables["rejects"].to_pylist():
                    rejects[row["reason"]] += 1
                    if len(known := examples.setdefault(row["reason"], [])) < _EXAMPLES:
                        known.append(f"{row['path']}: {row['detail']}")
    if not first_file:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejects.most_common()) or "no music file in them"
        raise TimbreflowError(f"no usable piece in {', '.join(config.sources)}: {reasons}; name other sources.")
    return Totals(len(first_file), n_tracks, n_notes, seconds / 3600, dict(sorted(rejects.items())), examples)


def _unfinished(part: Path, name: str, read: Callable[[Any], Any] = pq.read_table) -> Any:
    """A table that a shard left, or what `read` tells of it; the power may have gone while it was written."""
    path = table_file(part, name, 0)
    try:
        return read(parquet_source(path))
    except (OSError, pa.ArrowInvalid) as error:
        raise TimbreflowError(f"{path} is damaged ({error}); delete the folder {part} and start again.") from error


def _duplicates(pieces: pa.Table, first_file: dict[int, str]) -> pa.Table:
    """Rejects, with their ids, for the pieces that `first_file` names; the others are noted there."""
    duplicates: list[dict[str, str]] = []
    for row in pieces.select(["piece_id", "source", "path"]).to_pylist():
        key = int(row["piece_id"], 16)  # half the memory of the text
        if key in first_file:
            duplicates.append(row | {"reason": "duplicate", "detail": f"it has the same notes as {first_file[key]}."})
        else:
            first_file[key] = f"{row['source']}: {row['path']}"
    return pa.Table.from_pylist(duplicates, schema=pa.schema([("piece_id", pa.string()), *REJECTS]))


def _without(tables: dict[str, pa.Table], duplicates: pa.Table) -> dict[str, pa.Table]:
    """Tables without the pieces of `duplicates`, which come as rejects."""
    if not len(duplicates):
        return tables
    ids = duplicates.column("piece_id").combine_chunks()
    kept = {
        name: tables[name].filter(pc.invert(pc.is_in(tables[name].column("piece_id"), value_set=ids)))
        for name in ("pieces", "tracks", "notes")
    }
    return kept | {"rejects": pa.concat_tables([tables["rejects"], duplicates.select(REJECTS.names)])}
