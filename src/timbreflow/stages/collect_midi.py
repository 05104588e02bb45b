"""Stage collect_midi: sources of music to the note tables in data/notes.

Also the work of `timbreflow collect SOURCE… --out DIR`.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
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
from timbreflow.stages.result import StageResult
from timbreflow.stages.unfinished import unfinished, writing
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
    """Read one shard into its scratch folder; returns at once when that was done before.

    A tar, which is one shard, is read by as many processes as there are workers.

    Raises:
        TimbreflowError: the disk is full, or processes are killed from outside.
    """
    collect_shard(shard.plan, _folder(shard, layout), config, workers=worker_count() if shard.plan.is_tar else 1)


def finish(config: CollectConfig, *, layout: Layout) -> StageResult:
    """Merge the shards into data/notes, drop duplicates across them, write results/collect_midi/metrics.json.

    Raises:
        TimbreflowError: no usable piece at all, or a shard is missing.
    """
    shards = plan(config, layout=layout)
    folders = [_folder(shard, layout) for shard in shards]
    missing = [folder for folder in folders if not folder.exists()]
    if missing:
        raise TimbreflowError(f"{len(missing)} of {len(folders)} shards are missing, such as {missing[0]}; run again.")
    with writing(layout.notes), atomic_directory(layout.notes) as temporary:
        totals = merge_shards([shard.plan for shard in shards], folders, temporary, config)
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
) -> StageResult:
    """Write the note tables of any sources, in place of those of `config`, to a folder of the caller's choice.

    `out` is replaced where it holds nothing but note tables. Relative sources are relative to `root`, by default the
    current folder; corpora lie in `corpora`, by default data/corpora below `root`.

    Raises:
        TimbreflowError: `out` holds something else, or another process collects into it; a source does not exist; no
            usable piece at all; the disk is full. What was read is kept beside `out` for the next call.
    """
    out = Path(out)
    root = Path.cwd() if root is None else root
    _refuse_foreign(out)
    fractions = {source: share for source, share in config.fractions.items() if source in sources}
    config = replace(config, sources=tuple(sources), fractions=fractions)
    plans = plan_shards(config, root=root, corpora=Layout(root).corpora if corpora is None else corpora)
    out.parent.mkdir(parents=True, exist_ok=True)
    workers = worker_count() if workers is None else workers
    with unfinished(out, f"{stable_hash(asdict(config), fingerprint(plans)):016x}") as scratch:
        folders = [scratch / f"{number:05d}" for number in range(len(plans))]
        _collect_all(plans, folders, config, workers)
        with writing(out), atomic_directory(out) as temporary:
            totals = merge_shards(plans, folders, temporary, config)
    return _report(totals, {"tables": out})


def _collect_all(plans: list[ShardPlan], folders: list[Path], config: CollectConfig, workers: int) -> None:
    """Read every shard: threads here only hand files to processes, which read and write."""

    def collect_one(plan: ShardPlan, folder: Path) -> None:
        collect_shard(plan, folder, config, workers=workers if plan.is_tar else 1)

    shards = list(zip(plans, folders, strict=True))
    for plan, folder in shards:
        if plan.is_tar:
            collect_one(plan, folder)
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(collect_one, *shard) for shard in shards if not shard[0].is_tar]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


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
        "n_rejects": sum(_rejected(totals).values()),
        "rejects": totals.rejects,
    }


def _rejected(totals: Totals) -> dict[str, int]:
    """Files of music that are not in the tables, by reason."""
    return {reason: count for reason, count in totals.rejects.items() if reason not in ("passed_over", "incomplete")}


def _report(totals: Totals, files: dict[str, Path]) -> StageResult:
    rejected = _rejected(totals)
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
    others = "".join(
        f"; {totals.rejects[reason]} {words}"
        for reason, words in (("incomplete", "perhaps read in part"), ("passed_over", "passed over"))
        if reason in totals.rejects
    )
    return StageResult(
        summary=(
            f"{totals.n_pieces} pieces, {totals.n_tracks} tracks, {totals.n_notes} notes, {totals.hours:.1f} h; "
            f"{sum(rejected.values())} files rejected{f' ({reasons})' if reasons else ''}{others}."
        ),
        metrics={name: float(value) for name, value in _metrics(totals).items() if not isinstance(value, dict)},
        tables={
            "rejects": [
                {"reason": reason, "files": count, "such as": " ".join(totals.examples[reason])}
                for reason, count in totals.rejects.items()
            ]
        },
        files=files,
    )
