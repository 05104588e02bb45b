"""Sources to note tables: planned as shards, read one by one, merged with duplicates dropped.

Files are grouped by `files_per_shard`. An archive is shared by numbers: share `i` of `k` takes every `k`-th music file
of it, so that no one has to list it before, and no one holds it in memory. The price is that each worker walks over
the whole archive; for Lakh's 1.8 GB that is about a minute of unpacking a share, so `k` is at most 16.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from timbreflow.errors import TimbreflowError
from timbreflow.notes.abc_tunes import read_abc
from timbreflow.notes.kern import read_kern
from timbreflow.notes.limits import ReadLimits
from timbreflow.notes.midi import read_midi
from timbreflow.notes.musicxml import read_musicxml
from timbreflow.notes.pieces import Piece, Reject
from timbreflow.notes.sources import (
    Container,
    Item,
    Share,
    clean_text,
    containers,
    count_members,
    read_items,
)
from timbreflow.notes.tables import SCHEMAS, table_file
from timbreflow.notes.writer import TableWriter, piece_tables, reject_table

_BYTES_PER_SHARE = 100_000_000
_MOST_SHARES = 16


@dataclass(frozen=True)
class CollectConfig:
    """Section `collect_midi` of params.yaml.

    Attributes:
        sources: names of corpora (`music21`, `music21/bach`, `freedoom`, ...) and paths, relative to the checkout.
        fractions: of a source named here only this share of its files, 0 to 1, chosen by a stable hash of the path.
        leave_out: files that are not taken, as source/path: other editions of pieces that a test set plays.
        max_bytes: larger files are rejected (Cífka et al. 2021 skip MIDI files over 100 kB; scores are larger).
        max_ticks: MIDI files that run longer are rejected.
        max_duration: longer pieces are rejected, in s.
        max_notes: pieces with more are rejected.
        min_notes: pieces with fewer, drums not counted, are rejected.
        files_per_shard: files that one worker reads at a time.
    """

    sources: tuple[str, ...]
    fractions: dict[str, float]
    leave_out: tuple[str, ...]
    max_bytes: int
    max_ticks: int
    max_duration: float
    max_notes: int
    min_notes: int
    files_per_shard: int

    def __post_init__(self) -> None:
        """Refuse limits that no file could keep."""
        if not self.sources:
            raise TimbreflowError("collect_midi.sources names no source; list a corpus or a path in params.yaml.")
        for name in ("max_bytes", "max_ticks", "max_duration", "max_notes", "min_notes", "files_per_shard"):
            if not getattr(self, name) > 0:
                raise TimbreflowError(f"collect_midi.{name} is {getattr(self, name)}; set it above 0 in params.yaml.")

    @property
    def limits(self) -> ReadLimits:
        """The limits of one file."""
        return ReadLimits(self.max_bytes, self.max_ticks, self.max_duration, self.max_notes, self.min_notes)


@dataclass(frozen=True)
class ShardPlan:
    """What one worker reads: some files, or a share of one archive."""

    source: str
    containers: tuple[Container, ...]
    share: Share


@dataclass(frozen=True)
class Totals:
    """Numbers of a finished collection; `rejects` counts by reason, `hours` is the length of all pieces."""

    n_pieces: int = 0
    n_tracks: int = 0
    n_notes: int = 0
    hours: float = 0.0
    rejects: dict[str, int] = field(default_factory=dict)


def plan_shards(config: CollectConfig, *, root: Path, corpora: Path) -> list[ShardPlan]:
    """Shards of all sources, in their order; lists folders and the directories of .zip files, opens nothing else.

    Args:
        config: the section of params.yaml.
        root: what relative paths are relative to.
        corpora: folder of fetched corpora.

    Raises:
        TimbreflowError: there is no source, or one does not exist or holds no music file.
    """
    if not config.sources:
        raise TimbreflowError("no source of notes is named; name folders, archives or corpora such as music21.")
    for source, fraction in config.fractions.items():
        if source not in config.sources or not 0 < fraction <= 1:
            raise TimbreflowError(f"fraction {source}: {fraction} must name one of the sources and lie in (0, 1].")
    shards = []
    for source in dict.fromkeys(config.sources):
        found = containers(source, root=root, corpora=corpora)
        fraction = config.fractions.get(source, 1.0)
        files = [container for container in found if container.kind == "file"]
        for first in range(0, len(files), config.files_per_shard):
            group = tuple(files[first : first + config.files_per_shard])
            shards.append(ShardPlan(source, group, Share(fraction=fraction)))
        for archive in found:
            if archive.kind != "file":
                parts = _n_shares(archive, config.files_per_shard)
                shards += [ShardPlan(source, (archive,), Share(part, parts, fraction)) for part in range(parts)]
    return shards


def _n_shares(archive: Container, files_per_shard: int) -> int:
    if archive.kind == "zip":  # its directory makes skipping free
        return -(-count_members(archive) // files_per_shard)
    return min(max(-(-os.path.getsize(archive.path) // _BYTES_PER_SHARE), 1), _MOST_SHARES)


def fingerprint(shards: Iterable[ShardPlan]) -> list[list[str | int]]:
    """What tells one state of the sources from another: label, size and time of change of every file, as JSON."""
    states: list[list[str | int]] = []
    for shard in shards:
        states.append([clean_text(shard.source), shard.share.part, shard.share.parts])
        for container in shard.containers:
            try:
                status = os.stat(container.path)
            except OSError as error:
                raise TimbreflowError(f"{container.path} vanished while it was to be read; start again.") from error
            states.append([clean_text(container.label), status.st_size, status.st_mtime_ns])
    return states


def collect_shard(shard: ShardPlan, folder: Path, config: CollectConfig) -> None:
    """Read one shard into note tables in `folder` (which exists and is empty); no bad file stops it."""
    limits = config.limits
    first_path: dict[str, str] = {}
    with TableWriter(folder) as writer:
        for item in _items(shard, config.max_bytes):
            path = clean_text(item.path)
            source = clean_text(shard.source)
            try:
                if f"{source}/{path}" in config.leave_out:
                    raise Reject("left_out", "collect_midi.leave_out names it.")
                piece = read_piece(item, limits)
                piece_id = piece.piece_id
                if piece_id in first_path:
                    raise Reject("duplicate", f"it has the same notes as {first_path[piece_id]}.")
                first_path[piece_id] = f"{source}: {path}"
                tables = piece_tables(source, path, piece)
            except Reject as reject:
                tables = reject_table(source, path, reject.reason, clean_text(reject.detail))
            writer.add(tables)


def _items(shard: ShardPlan, max_bytes: int) -> Iterator[Item]:
    for container in shard.containers:
        yield from read_items(container, max_bytes=max_bytes, share=shard.share)


def read_piece(item: Item, limits: ReadLimits) -> Piece:
    """Read one music file of any known kind, told by its first bytes, else by its name.

    Raises:
        Reject: it gives no piece, with the reason.
    """
    if item.error:
        raise Reject("broken", item.error)
    limits.check_size(item.size)
    suffix = item.path.lower().rpartition(".")[2]
    if item.data[:4] in (b"MThd", b"RIFF") or suffix in ("mid", "midi", "kar"):
        return read_midi(item.data, limits)
    if suffix == "abc":
        return read_abc(item.data, limits)
    return read_kern(item.data, limits) if suffix == "krn" else read_musicxml(item.data, limits)


def merge_shards(folders: Iterable[Path], out: Path, config: CollectConfig) -> Totals:
    """Join the tables of all shards, in their order, dropping pieces that an earlier shard holds too.

    Args:
        folders: one a shard, as `collect_shard` left them.
        out: an empty folder for the result.
        config: for the names of the sources, when there is nothing in them.

    Raises:
        TimbreflowError: no piece is left; the message counts the reasons.
    """
    first_path: dict[str, str] = {}
    rejects: Counter[str] = Counter()
    n_tracks, n_notes, seconds = 0, 0, 0.0
    with TableWriter(out) as writer:
        for folder in folders:
            for number in range(len(list(folder.glob("pieces-?????.parquet")))):
                tables = {name: pq.read_table(table_file(folder, name, number)) for name in SCHEMAS}
                tables = _without_twins(tables, first_path)
                writer.add(tables)
                n_tracks += len(tables["tracks"])
                n_notes += len(tables["notes"])
                seconds += float(np.sum(tables["pieces"].column("duration").to_numpy(), dtype=np.float64))
                rejects.update(tables["rejects"].column("reason").to_pylist())
    if not first_path:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejects.most_common()) or "no music file in them"
        raise TimbreflowError(f"no usable piece in {', '.join(config.sources)}: {reasons}; name other sources.")
    return Totals(len(first_path), n_tracks, n_notes, seconds / 3600, dict(sorted(rejects.items())))


def _without_twins(tables: dict[str, pa.Table], first_path: dict[str, str]) -> dict[str, pa.Table]:
    """Tables without the pieces named in `first_path`, which come as rejects; the others are noted there."""
    ids, sources, paths = (tables["pieces"].column(name).to_pylist() for name in ("piece_id", "source", "path"))
    twins = {
        piece: (source, path) for piece, source, path in zip(ids, sources, paths, strict=True) if piece in first_path
    }
    kept = dict(tables)
    for piece, (source, path) in twins.items():
        reject = reject_table(source, path, "duplicate", f"it has the same notes as {first_path[piece]}.")
        kept["rejects"] = pa.concat_tables([kept["rejects"], reject["rejects"]])
    if twins:
        values = pa.array(list(twins), pa.string())
        for name in ("pieces", "tracks", "notes"):
            kept[name] = kept[name].filter(pc.invert(pc.is_in(kept[name].column("piece_id"), value_set=values)))
    for piece, source, path in zip(ids, sources, paths, strict=True):
        first_path.setdefault(piece, f"{source}: {path}")
    return kept
