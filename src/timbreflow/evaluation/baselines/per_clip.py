"""Scores of slow baselines, clip by clip, as files in git, and how they are held against scores computed anew.

A file is CSV: lines `# name: value` (system, set, test_digest, metric_digest), a header, and one row a triple, sorted:
triple_id, every metric of `analysis.compare`, and the ceilings onset_f1_content and onset_f1_target that the note score
needs.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.scores import CLIP_METRICS
from timbreflow.files import atomic_file

COLUMNS = ("triple_id", *CLIP_METRICS, "onset_f1_content", "onset_f1_target")
DECIMALS = 6

LSD_TOLERANCE = 0.05
"""dB by which the mean LSD of clips computed anew may differ from the stored one."""

_HEADER = ("system", "set", "test_digest", "metric_digest")


@dataclass(frozen=True)
class ClipScores:
    """What one system scored on every clip of one set.

    Args:
        system: name of the row.
        set: name of the test set.
        test_digest: names the test clips (`clips.digest_of_clips`).
        metric_digest: names metric code and weights (`scores.digest_of_metrics`).
        table: one row a triple with the columns `COLUMNS`.

    Raises:
        TimbreflowError: a column is missing, a figure is not finite, or a triple stands there twice.
    """

    system: str
    set: str
    test_digest: str
    metric_digest: str
    table: pd.DataFrame

    def __post_init__(self) -> None:
        missing = [column for column in COLUMNS if column not in self.table]
        if missing:
            raise TimbreflowError(f"the scores of {self.system} on {self.set} lack {missing[0]}; compute them again.")
        try:
            finite = bool(np.isfinite(self.table[list(COLUMNS[1:])].to_numpy(dtype=np.float64)).all())
        except ValueError:
            finite = False
        if not finite or self.table["triple_id"].duplicated().any():
            raise TimbreflowError(
                f"the scores of {self.system} on {self.set} hold a figure that is no number, or a triple twice; "
                "compute them again."
            )


def scores_path(root: Path, system: str, set_name: str) -> Path:
    """Where the scores of a system on a set are kept."""
    return root / "released" / "baselines" / system / f"{set_name}.csv"


def write_scores(path: Path, scores: ClipScores) -> None:
    """Write a file, rows sorted by triple, so that equal scores are equal bytes."""
    table = scores.table[list(COLUMNS)].sort_values("triple_id")
    header = "".join(f"# {name}: {getattr(scores, name)}\n" for name in _HEADER)
    body = table.to_csv(index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")
    with atomic_file(path) as temporary:
        temporary.write_text(header + body, encoding="utf-8")


def read_scores(path: Path, *, test_digest: str | None = None, metric_digest: str | None = None) -> ClipScores:
    """Read a file.

    Args:
        path: of `scores_path`.
        test_digest: what the test clips must be; None takes any.
        metric_digest: what the metrics must be; None takes any.

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
        scores = ClipScores(**{name: header[name] for name in _HEADER}, table=table)
    except (KeyError, ValueError) as error:
        raise TimbreflowError(f"{path} is no file of scores ({error}); restore it from git.") from error
    for name, wanted in (("test_digest", test_digest), ("metric_digest", metric_digest)):
        if wanted is not None and getattr(scores, name) != wanted:
            raise TimbreflowError(
                f"{path} has {name} {getattr(scores, name)[:12]} and the present one is {wanted[:12]}: its figures "
                "belong to other clips or metrics; compute them again with `--recompute SYSTEM --store`."
            )
    return scores


def compare(recomputed: ClipScores, stored: ClipScores, clips: int = 20) -> pd.DataFrame:
    """Hold scores computed anew against stored ones.

    Args:
        recomputed: at least the first `clips` triples of the stored ones, in the order of their ids.
        stored: from a file.
        clips: triples that are compared; fewer where the set has fewer.

    Returns:
        One row a metric: metric, clips, stored (mean), recomputed (mean), difference (of the means), largest
        (difference on one clip).

    Raises:
        TimbreflowError: the scores are of other systems, sets or metrics, or a triple was not recomputed.
    """
    for name in ("system", "set", "metric_digest"):
        if getattr(recomputed, name) != getattr(stored, name):
            raise TimbreflowError(
                f"scores with {name} {getattr(recomputed, name)} cannot be compared with stored ones with {name} "
                f"{getattr(stored, name)}; compute the stored ones again."
            )
    if clips < 1:
        raise TimbreflowError(f"--clips is {clips}; compare at least 1.")
    before = stored.table.set_index("triple_id").sort_index().iloc[:clips]
    now = recomputed.table.set_index("triple_id")
    missing = before.index.difference(now.index)
    if len(missing):
        raise TimbreflowError(f"the triple {missing[0]} was not recomputed; compute the first {clips} of the set.")
    now = now.loc[before.index]
    return pd.DataFrame(
        [
            {
                "metric": metric,
                "clips": len(before),
                "stored": float(before[metric].mean()),
                "recomputed": float(now[metric].mean()),
                "difference": float(now[metric].mean() - before[metric].mean()),
                "largest": float((now[metric] - before[metric]).abs().max()),
            }
            for metric in CLIP_METRICS
        ]
    )


def agrees(comparison: pd.DataFrame) -> bool:
    """Whether the mean LSD of a table of `compare` moved by at most `LSD_TOLERANCE`."""
    moved = comparison.loc[comparison["metric"] == "lsd", "difference"].abs()
    return bool((moved <= LSD_TOLERANCE).all())
