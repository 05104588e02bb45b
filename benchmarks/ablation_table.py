"""Figures of one ablation, and the table of those that exist: each against its reference, clip by clip."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, read_json
from timbreflow.metrics.onsets import note_score
from timbreflow.metrics.statistics import Interval, bootstrap, paired_difference

METRICS = {"lsd": "LSD, dB", "timbre": "timbre", "timbre_mfcc": "timbre by MFCC", "note_score": "note score"}
"""Columns of the table; all but the last are better when lower."""

COMMON = ("steps", "exam")
"""What two arms must share, and `data_digest` too where the data is not what was changed."""


def figures_of(
    clips: pd.DataFrame, *, samples: int, seed: int, reference: pd.DataFrame | None = None
) -> dict[str, Interval]:
    """Metric to interval of one arm on one set, or of arm - reference over the same clips.

    Args:
        clips: of the arm, one row a triple, sorted.
        samples: bootstrap draws.
        seed: of the bootstrap.
        reference: as `clips`, of the reference; None gives the arm's own figures.
    """
    found = {}
    for metric in METRICS:
        column = "onset_f1" if metric == "note_score" else metric
        own = clips[column].to_numpy(float)
        other = np.zeros_like(own) if reference is None else reference[column].to_numpy(float)
        if metric == "note_score":
            ceilings = [clips[f"onset_f1_{role}"].to_numpy(float) for role in ("target", "content")]
            found[metric] = bootstrap(
                [own, other, *ceilings],
                lambda a, b, t, c: note_score(a, t, c) - note_score(b, t, c),
                samples=samples,
                seed=seed,
            )
        else:
            found[metric] = paired_difference(own, other, samples=samples, seed=seed)
    return found


def write_table(out: Path, names: Sequence[str], *, samples: int, seed: int) -> str:
    """Write OUT/table.md from the arms that lie in OUT, and return it.

    Args:
        out: folder of `ablation.run`.
        names: rows in their order.
        samples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        TimbreflowError: there is no arm yet, or a file is broken.
    """
    arms = {name: read_json(out / f"{name}.json") for name in names if (out / f"{name}.json").is_file()}
    if not arms:
        raise TimbreflowError(f"{out} holds no ablation yet; run one, such as reference_vqvae.")
    lines = [
        "# Ablations",
        "",
        "One changed setting a row, equal steps. In brackets: arm - reference over the same clips with its 95 % "
        "interval, bold where that excludes 0. Note score is better when higher, the others when lower.",
    ]
    try:
        clips = {name: pd.read_csv(out / "per_clip" / f"{name}.csv", dtype={"triple_id": str}) for name in arms}
        for testset in next(iter(arms.values()))["figures"]:
            lines += ["", f"## {testset}", "", f"| arm | steps | CPU min | {' | '.join(METRICS.values())} |"]
            lines += [f"|---|---|---|{'---|' * len(METRICS)}"]
            for name, arm in arms.items():
                gaps: dict[str, Interval] = {}
                reference = arm["reference"]
                if reference in arms and comparable(arm, arms[reference]):
                    own, other = (clips[each][clips[each]["set"] == testset] for each in (name, reference))
                    gaps = figures_of(own, reference=other, samples=samples, seed=seed)
                cells = [_cell(arm["figures"][testset][metric]["value"], gaps.get(metric)) for metric in METRICS]
                lines += [f"| {name} | {arm['steps']} | {arm['cpu_seconds'] / 60:.1f} | {' | '.join(cells)} |"]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise TimbreflowError(
            f"An ablation in {out} is broken ({error}); delete its files and run it again."
        ) from error
    text = "\n".join(lines) + "\n"
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def comparable(arm: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Whether two arms differ in nothing but the changed setting."""
    shared = (*COMMON, "data_digest") if arm["data"] == reference["data"] else COMMON
    return all(arm[name] == reference[name] for name in shared)


def _cell(value: float, gap: Interval | None) -> str:
    if gap is None:
        return f"{value:.3f}"
    words = f"{gap.value:+.3f}, {gap.low:+.3f} to {gap.high:+.3f}"
    return f"{value:.3f} (**{words}**)" if gap.low > 0 or gap.high < 0 else f"{value:.3f} ({words})"
