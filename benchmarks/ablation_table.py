"""The table of the ablations that exist: each compared with its reference, clip by clip."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.summary import summarize
from timbreflow.files import atomic_file, read_json
from timbreflow.metrics.registry import METRICS
from timbreflow.metrics.statistics import Interval

COMMON = ("steps", "evaluation_digest")
"""What two arms must share, and `data_digest` too where the data is not what was changed."""


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
        "interval, bold where that excludes 0. An arrow says which values are better.",
    ]
    try:
        clips = [pd.read_csv(out / "per_clip" / f"{name}.csv", dtype={"triple_id": str}) for name in arms]
        table = pd.concat([own.assign(system=name) for name, own in zip(arms, clips, strict=True)])
        pairs = [
            (name, arm["reference"])
            for name, arm in arms.items()
            if arm["reference"] in arms and comparable(arm, arms[arm["reference"]])
        ]
        for testset, summary in summarize(table, pairs=pairs, samples=samples, seed=seed).items():
            shown = [metric for metric in METRICS if any(metric.name in row for row in summary.figures.values())]
            heads = [f"{metric.head} {'↑' if metric.direction == 'higher' else '↓'}" for metric in shown]
            lines += ["", f"## {testset}", "", f"| arm | steps | CPU min | {' | '.join(heads)} |"]
            lines += [f"|---|---|---|{'---|' * len(shown)}"]
            for name, arm in arms.items():
                figures, gaps = summary.figures[name], summary.differences.get(f"{name} - {arm['reference']}", {})
                cells = [_cell(figures.get(metric.name), gaps.get(metric.name)) for metric in shown]
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


def _cell(figure: Interval | None, gap: Interval | None) -> str:
    if figure is None:
        return "-"
    if gap is None:
        return f"{figure.value:.3f}"
    words = f"{gap.value:+.3f}, {gap.low:+.3f} to {gap.high:+.3f}"
    return f"{figure.value:.3f} (**{words}**)" if gap.low > 0 or gap.high < 0 else f"{figure.value:.3f} ({words})"
