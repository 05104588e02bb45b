"""Stage collect_midi: sources of music to the note tables in data/notes.

Also the work of `timbreflow collect SOURCE… --out DIR`.
"""

import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, stable_hash, write_json
from timbreflow.notes.collect import (
    CollectConfig,
    ShardPlan,
    Totals,
    collect_shard,
    fingerprint,
    merge_shards,
    plan_shards,
)
from timbreflow.notes.tables import SCHEMAS
from timbreflow.stages.layout import Layout
from timbreflow.stages.report import StageReport
from timbreflow.workers import worker_count

STAGE = "collect_midi"


@dataclass(frozen=True)
class Shard:
    """One worker's share: its place in the order, the key of the run's scratch folder, and what it reads."""

    number: int
    key: str
    plan: ShardPlan


def plan(config: CollectConfig, *, layout: Layout) -> list[Shard]:
    """Which shards there are; their key changes with the configuration and with any file of the sources.

    Raises:
        TimbreflowError: a source does not exist or holds no music file.
    """
    plans = plan_shards(config, root=layout.root, corpora=layout.corpora)
    key = f"{stable_hash(asdict(config), fingerprint(plans)):016x}"
    return [Shard(number, key, shard) for number, shard in enumerate(plans)]


def run_one(shard: Shard, config: CollectConfig, *, layout: Layout) -> None:
    """Read one shard into its scratch folder; returns at once when that was done before."""
    folder = _folder(shard, layout)
    if not folder.exists():
        with atomic_directory(folder) as temporary:
            collect_shard(shard.plan, temporary, config)


def finish(config: CollectConfig, *, layout: Layout) -> StageReport:
    """Merge the shards into data/notes, drop duplicates across them, write results/collect_midi/metrics.json.

    Raises:
        TimbreflowError: no usable piece at all, or a shard is missing.
    """
    shards = plan(config, layout=layout)
    folders = [_folder(shard, layout) for shard in shards]
    missing = [folder for folder in folders if not folder.exists()]
    if missing:
        raise TimbreflowError(f"{len(missing)} of {len(folders)} shards are missing, such as {missing[0]}; run again.")
    with atomic_directory(layout.notes) as temporary:
        totals = merge_shards(folders, temporary, config)
    metrics = _metrics(totals)
    path = layout.results(STAGE) / "metrics.json"
    write_json(path, metrics)
    shutil.rmtree(layout.scratch(STAGE, shards[0].key), ignore_errors=True)
    return _report(totals, {"metrics": path})


def collect(
    sources: Sequence[str],
    out: Path,
    config: CollectConfig,
    *,
    root: Path | None = None,
    corpora: Path | None = None,
    workers: int | None = None,
) -> StageReport:
    """Write the note tables of any sources to a folder of the caller's choice.

    Args:
        sources: as `CollectConfig.sources`; they replace those of `config`.
        out: is made, or replaced where it holds nothing but note tables.
        config: limits.
        root: what relative sources are relative to; None is the current folder.
        corpora: folder of fetched corpora; None is data/corpora below `root`.
        workers: processes to read with; None is TIMBREFLOW_WORKERS, else the number of cores.

    Raises:
        TimbreflowError: `out` holds something else; a source does not exist; no usable piece at all.
    """
    out = Path(out)
    root = Path.cwd() if root is None else root
    _refuse_foreign(out)
    fractions = {source: share for source, share in config.fractions.items() if source in sources}
    config = replace(config, sources=tuple(sources), fractions=fractions)
    plans = plan_shards(config, root=root, corpora=Layout(root).corpora if corpora is None else corpora)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".collect-") as scratch:
        folders = [Path(scratch, f"{number:05d}") for number in range(len(plans))]
        for folder in folders:
            folder.mkdir()
        _collect_all(plans, folders, config, worker_count() if workers is None else workers)
        with atomic_directory(out) as temporary:
            totals = merge_shards(folders, temporary, config)
    return _report(totals, {"tables": out})


def _collect_all(plans: list[ShardPlan], folders: list[Path], config: CollectConfig, workers: int) -> None:
    if min(workers, len(plans)) <= 1:
        for shard, folder in zip(plans, folders, strict=True):
            collect_shard(shard, folder, config)
        return
    # spawn: pyarrow's threads do not survive a fork.
    with ProcessPoolExecutor(min(workers, len(plans)), mp_context=get_context("spawn")) as pool:
        try:
            list(pool.map(collect_shard, plans, folders, [config] * len(plans)))
        except BrokenProcessPool as error:
            raise TimbreflowError("a reading process was killed, perhaps for memory; use fewer workers.") from error


def _refuse_foreign(out: Path) -> None:
    """Replacing a folder deletes what is in it, so only folders that we wrote may be replaced."""
    if out.exists() and not out.is_dir():
        raise TimbreflowError(f"{out} is a file; name a folder for the note tables.")
    foreign = [
        path.name
        for path in (out.iterdir() if out.exists() else ())
        if not (path.suffix == ".parquet" and path.name.partition("-")[0] in SCHEMAS)
    ]
    if foreign:
        raise TimbreflowError(f"{out} holds other files ({sorted(foreign)[0]}); name a new folder for the note tables.")


def _folder(shard: Shard, layout: Layout) -> Path:
    return layout.scratch(STAGE, shard.key) / f"{shard.number:05d}"


def _metrics(totals: Totals) -> dict[str, int | float | dict[str, int]]:
    return {
        "n_pieces": totals.n_pieces,
        "n_tracks": totals.n_tracks,
        "n_notes": totals.n_notes,
        "hours": round(totals.hours, 4),
        "n_rejects": sum(totals.rejects.values()),
        "rejects": totals.rejects,
    }


def _report(totals: Totals, files: dict[str, Path]) -> StageReport:
    n_rejects = sum(totals.rejects.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in totals.rejects.items())
    return StageReport(
        summary=(
            f"{totals.n_pieces} pieces, {totals.n_tracks} tracks, {totals.n_notes} notes, {totals.hours:.1f} h; "
            f"{n_rejects} files rejected{f' ({reasons})' if reasons else ''}."
        ),
        metrics={name: float(value) for name, value in _metrics(totals).items() if not isinstance(value, dict)},
        tables={"rejects": [{"reason": reason, "files": count} for reason, count in totals.rejects.items()]},
        files=files,
    )
