"""Figures of slow baselines, clip by clip, as files in git.

A file is CSV: lines `# name: value` (system, set, test_digest, metric_digest), a header, and one row a triple, sorted:
triple_id, the metrics, and the ceilings onset_f1_content and onset_f1_target that the note score needs. A file may lack
metrics that are younger than it is: tables show "-" there.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from timbreflow.errors import TimbreflowError
from timbreflow.files import write_text
from timbreflow.metrics.registry import CEILING_COLUMNS, PER_CLIP

METRICS = tuple(metric.name for metric in PER_CLIP if not metric.optional)
"""Metrics that are stored."""
COLUMNS = ("triple_id", *METRICS, "onset_f1_content", "onset_f1_target")
DECIMALS = 6

_HEADER = ("system", "set", "test_digest", "metric_digest")


@dataclass(frozen=True)
class StoredRow:
    """What one system scored on every clip of one set.

    Args:
        system: name of the row.
        set: name of the test set.
        test_digest: names the test clips.
        metric_digest: names metric code and weights.
        table: one row a triple with the columns `COLUMNS`, or some of them; `triple_id` and `lsd` always.

    Raises:
        TimbreflowError: a column is missing or unknown, a figure is not finite, or a triple stands there twice.
    """

    system: str
    set: str
    test_digest: str
    metric_digest: str
    table: pd.DataFrame

    def __post_init__(self) -> None:
        missing = {"triple_id", "lsd"} - set(self.table)
        if missing:
            raise TimbreflowError(f"the row of {self.system} on {self.set} lacks {min(missing)}; compute it again.")
        figures = self.table[[column for column in COLUMNS[1:] if column in self.table]]
        try:
            finite = bool(np.isfinite(figures.to_numpy(dtype=np.float64)).all())
        except ValueError:
            finite = False
        if not finite or self.table["triple_id"].duplicated().any():
            raise TimbreflowError(
                f"the row of {self.system} on {self.set} holds a figure that is no number, or a triple twice; "
                "compute it again."
            )


def stored_path(baselines: Path, system: str, set_name: str) -> Path:
    """Where the row of a system on a set is kept, below released/baselines."""
    return baselines / system / f"{set_name}.csv"


def write_stored(path: Path, row: StoredRow) -> None:
    """Write a file, sorted by triple, so that equal figures are equal bytes."""
    table = row.table[[column for column in COLUMNS if column in row.table]].sort_values("triple_id")
    header = "".join(f"# {name}: {getattr(row, name)}\n" for name in _HEADER)
    body = table.to_csv(index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")
    write_text(path, header + body)


def read_stored(path: Path, *, test_digest: str | None = None, metric_digest: str | None = None) -> StoredRow:
    """Read a file, of clips and metrics with these digests; None takes any.

    Raises:
        TimbreflowError: the file is missing or broken, or its figures are of other clips or metrics.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError as error:
        raise TimbreflowError(
            f"{path} is missing; compute it with `timbreflow evaluate --testset SET --recompute SYSTEM --store`."
        ) from error
    except UnicodeDecodeError as error:
        raise TimbreflowError(f"{path} is not text ({error}); restore it from git.") from error
    header = dict(line[2:].rstrip("\n").split(": ", 1) for line in lines if line.startswith("# ") and ": " in line)
    body = "".join(line for line in lines if not line.startswith("#"))
    try:
        table = pd.read_csv(io.StringIO(body), dtype={"triple_id": str})
        unknown = [name for name in table if name not in COLUMNS]
        if unknown:
            raise ValueError(f"{unknown[0]} is no metric")
        row = StoredRow(**{name: header[name] for name in _HEADER}, table=table)
    except (KeyError, ValueError) as error:
        raise TimbreflowError(f"{path} is no stored row ({error}); restore it from git.") from error
    for name, wanted in (("test_digest", test_digest), ("metric_digest", metric_digest)):
        if wanted is not None and getattr(row, name) != wanted:
            raise TimbreflowError(
                f"{path} has {name} {getattr(row, name)[:12]} and the present one is {wanted[:12]}: its figures "
                "belong to other clips or metrics; compute them again with `--recompute SYSTEM --store`."
            )
    return row


def with_stored(computed: pd.DataFrame, stored: Mapping[str, StoredRow]) -> pd.DataFrame:
    """The per-clip table of one set, with the row content_copied, and stored rows of the triples that were evaluated.

    Raises:
        TimbreflowError: a stored row lacks a triple.
    """
    content = computed[computed["system"] == "content_copied"].set_index("triple_id")
    facts = content[[name for name in ("set", "description", "instrument", *CEILING_COLUMNS) if name in content]]
    tables = [computed]
    for system, row in stored.items():
        own = row.table.set_index("triple_id").drop(columns=[*CEILING_COLUMNS], errors="ignore")
        if not set(content.index) <= set(own.index):
            raise TimbreflowError(
                f"the per-clip file of {system} was made of other clips than this set has; make it again."
            )
        tables.append(own.loc[content.index].join(facts).reset_index().assign(system=system))
    return pd.concat(tables, ignore_index=True)
