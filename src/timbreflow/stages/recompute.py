"""`timbreflow evaluate --testset NAME --recompute SYSTEM`: whether a stored row can be reproduced."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.systems import SYSTEMS, System, SystemContext
from timbreflow.evaluation.testset_table import LABELS, ROWS, SLOW
from timbreflow.rendering.config import RenderConfig
from timbreflow.stages.layout import Layout
from timbreflow.stages.report import MetricLogger, ignore_metrics
from timbreflow.stages.testset_exam import MODELS, Exam, baseline_file, read_per_clip, require_weights, results_folder

LARGEST_DIFFERENCE = 0.05
"""dB of LSD within which a stored row counts as reproduced."""


@dataclass(frozen=True)
class Recomputed:
    """A row computed again beside what was stored of it.

    Args:
        system: the row.
        clips: how many were compared.
        lsd: their mean now, in dB.
        stored_lsd: their mean in the file.
        largest: greatest difference of a single clip, in dB.
    """

    system: str
    clips: int
    lsd: float
    stored_lsd: float
    largest: float

    @property
    def reproduced(self) -> bool:
        """Whether the means agree within `LARGEST_DIFFERENCE`."""
        return abs(self.lsd - self.stored_lsd) <= LARGEST_DIFFERENCE

    @property
    def sentence(self) -> str:
        """The same for people."""
        verdict = "reproduced" if self.reproduced else "NOT reproduced"
        return (
            f"{LABELS[self.system]}: LSD {self.lsd:.3f} now, {self.stored_lsd:.3f} stored, difference "
            f"{self.lsd - self.stored_lsd:+.3f} dB over {self.clips} clips (largest of one clip {self.largest:.3f}): "
            f"{verdict} within {LARGEST_DIFFERENCE} dB."
        )


def recompute(
    testset: str,
    system: str,
    config: EvaluationConfig,
    rendering: RenderConfig,
    *,
    layout: Layout,
    clips: int = 20,
    out: Path | None = None,
    device: str | None = None,
    log: MetricLogger = ignore_metrics,
) -> Recomputed:
    """Compute a row again on the first clips and hold its LSD against what is stored of it.

    Args:
        testset: artificial, seen or real.
        system: a slow baseline, held against released/baselines, or another row, held against results/testsets.
        config: section `evaluate`.
        rendering: section `render_triples`: training fonts, for transcribe and re-render.
        layout: paths.
        clips: how many triples, in the order of their ids.
        out: None is results/testsets.
        device: auto, cpu or cuda.
        log: gets (triples done, figures).

    Raises:
        TimbreflowError: there is no such row, or nothing is stored of it.
    """
    if system not in ROWS:
        raise TimbreflowError(f"There is no system {system!r}; choose from {', '.join(ROWS)}.")
    if clips < 1:
        raise TimbreflowError(f"{clips} clips cannot be recomputed; give 1 or more.")
    before = _stored_row(layout, testset, system, out)
    heard = Exam(testset, config, layout=layout, clips=clips, device=device)
    if system in MODELS:
        require_weights(layout, MODELS[system])
    builder = _slow(system, rendering, layout) if system in SLOW else SYSTEMS[system].build
    result, _ = heard.listen({system: builder}, log=log)
    now = pd.DataFrame(result.rows).set_index("triple_id")["lsd"].astype(float)
    absent = sorted(set(now.index) - set(before.index))
    if absent:
        raise TimbreflowError(f"nothing is stored of {system} for the clip {absent[0]} of {testset}; make it again.")
    old = before.loc[now.index]
    return Recomputed(system, len(now), float(now.mean()), float(old.mean()), float((now - old).abs().max()))


def _slow(system: str, rendering: RenderConfig, layout: Layout) -> Callable[[SystemContext], System]:
    """How a slow baseline is built; transcribe and re-render plays patches of the training fonts that are here."""
    # These load FluidSynth, which the table alone does not need.
    from timbreflow.evaluation.baselines.musaicing import Musaicing
    from timbreflow.evaluation.baselines.transcribe_and_render import from_folder
    from timbreflow.evaluation.baselines.ulyanov_lebedev import UlyanovLebedev

    if system == "musaicing":
        return Musaicing
    if system == "ulyanov_lebedev":
        return UlyanovLebedev
    return partial(
        from_folder,
        soundfonts=rendering.soundfonts,
        fractions=rendering.splits,
        folder=layout.soundfonts,
        cache=layout.root / ".scratch" / "patches",
    )


def _stored_row(layout: Layout, testset: str, system: str, out: Path | None) -> pd.Series:
    """triple_id to the stored LSD."""
    slow = system in SLOW
    path = baseline_file(layout, testset, system) if slow else results_folder(layout, out) / testset / "per_clip.csv"
    if not path.is_file():
        raise TimbreflowError(f"{path} is missing: nothing is stored of {system}; evaluate the set first.")
    table = read_per_clip(path)
    rows = table if slow else table[table["system"] == system]
    if not {"triple_id", "lsd"} <= set(rows):
        raise TimbreflowError(f"{path} lacks the column triple_id or lsd; make it again.")
    return rows.set_index("triple_id")["lsd"].astype(float)
