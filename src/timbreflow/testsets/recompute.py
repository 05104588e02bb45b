"""`timbreflow evaluate --testset NAME --recompute SYSTEM`: whether a stored row can be reproduced, and storing one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.per_clip import (
    LSD_TOLERANCE,
    ClipScores,
    agrees,
    compare,
    read_scores,
    scores_path,
    write_scores,
)
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.systems import SYSTEMS, System, SystemContext
from timbreflow.evaluation.table import LABELS, ROWS, SLOW
from timbreflow.files import read_json
from timbreflow.models.bundle import weights_sha256
from timbreflow.stages.layout import Layout
from timbreflow.stages.report import MetricLogger, ignore_metrics
from timbreflow.testsets.exam import (
    MODELS,
    VOCODER,
    Exam,
    features_and_vocoder,
    read_per_clip,
    require_weights,
    results_folder,
)


@dataclass(frozen=True)
class Recomputed:
    """A row computed again beside what was stored of it.

    Args:
        system: the row.
        comparison: of `per_clip.compare`: one row a metric.
    """

    system: str
    comparison: pd.DataFrame

    @property
    def reproduced(self) -> bool:
        """Whether the mean LSD agrees within `per_clip.LSD_TOLERANCE`."""
        return agrees(self.comparison)

    @property
    def sentence(self) -> str:
        """The same for people."""
        lsd = self.comparison.set_index("metric").loc["lsd"]
        verdict = "reproduced" if self.reproduced else "NOT reproduced"
        return (
            f"{LABELS[self.system]}: LSD {lsd['recomputed']:.3f} now, {lsd['stored']:.3f} stored, difference "
            f"{lsd['difference']:+.3f} dB over {lsd['clips']:.0f} clips (largest of one clip {lsd['largest']:.3f}): "
            f"{verdict} within {LSD_TOLERANCE} dB."
        )


def recompute(
    testset: str,
    system: str,
    config: EvaluationConfig,
    *,
    layout: Layout,
    clips: int = 20,
    out: Path | None = None,
    device: str | None = None,
    log: MetricLogger = ignore_metrics,
    say: Callable[[str], None] = print,
) -> Recomputed:
    """Compute a row again on the first clips and hold its LSD against what is stored of it.

    Args:
        testset: artificial, seen or real.
        system: a slow baseline, held against released/baselines, or another row, held against results/testsets.
        config: section `evaluate`.
        layout: paths.
        clips: how many triples, in the order of their ids.
        out: None is results/testsets.
        device: auto, cpu or cuda.
        log: gets (triples done, figures).
        say: gets one line a SoundFont that is fetched.

    Raises:
        TimbreflowError: there is no such row, nothing is stored of it, or that is of other weights or metrics.
    """
    if clips < 1:
        raise TimbreflowError(f"{clips} clips cannot be recomputed; give 1 or more.")
    _check(system)
    if system in SLOW:
        stored = read_scores(scores_path(layout.root, system, testset))
    else:
        folder = results_folder(layout, out) / testset
        stored = _from_table(folder, testset, system)
        _require_same_weights(folder, testset, system, layout)
    exam = Exam(testset, config, layout=layout, clips=clips, device=device)
    return Recomputed(system, compare(_compute(exam, system, layout, log, say), stored, clips))


def store(
    testset: str,
    system: str,
    config: EvaluationConfig,
    *,
    layout: Layout,
    device: str | None = None,
    log: MetricLogger = ignore_metrics,
    say: Callable[[str], None] = print,
) -> Path:
    """Compute a slow baseline on the whole set, which takes hours, and write its file below released/baselines.

    Args:
        testset: artificial, seen or real.
        system: one of `SLOW`.
        config: section `evaluate`.
        layout: paths.
        device: auto, cpu or cuda.
        log: gets (triples done, figures).
        say: gets one line a SoundFont that is fetched.

    Returns:
        The file.

    Raises:
        TimbreflowError: the row is not stored but computed with every table, or the set is missing.
    """
    _check(system)
    if system not in SLOW:
        raise TimbreflowError(f"{system} is computed with every table; stored are {', '.join(SLOW)}.")
    exam = Exam(testset, config, layout=layout, clips=0, device=device)
    path = scores_path(layout.root, system, testset)
    write_scores(path, _compute(exam, system, layout, log, say))
    return path


def _check(system: str) -> None:
    if system not in ROWS:
        raise TimbreflowError(f"There is no system {system!r}; choose from {', '.join(ROWS)}.")


def _compute(exam: Exam, system: str, layout: Layout, log: MetricLogger, say: Callable[[str], None]) -> ClipScores:
    if system in MODELS:
        require_weights(layout, MODELS[system])
    builder = _slow(system, layout, say) if system in SLOW else SYSTEMS[system].build
    result, _ = exam.listen({system: builder}, log=log)
    metric_digest = exam.slow_metric_digest if system in SLOW else exam.metric_digest
    return ClipScores(system, exam.testset, exam.test_digest, metric_digest, pd.DataFrame(result.rows))


def _slow(system: str, layout: Layout, say: Callable[[str], None]) -> Callable[[SystemContext], System]:
    """How a slow baseline is built; transcribe and re-render gets all training fonts, or its figures would move."""
    # They load FluidSynth, which the other rows do not need.
    from timbreflow.testsets.baselines import BASELINES, transcribe_and_render

    if system == "transcribe_and_render":
        from timbreflow.testsets.sources import require_training_fonts

        require_training_fonts(layout, say=say)
        return partial(transcribe_and_render, soundfonts=layout.soundfonts, cache=layout.root / ".scratch" / "patches")
    return BASELINES[system].build


def _require_same_weights(folder: Path, testset: str, system: str, layout: Layout) -> None:
    """Of other weights no figure can be reproduced: say so before anything is computed."""
    if system not in (*MODELS, "oracle"):
        return
    stored = read_json(folder / "metrics.json").get("weights", {})
    places = {VOCODER: features_and_vocoder(layout)[1]}
    if system in MODELS:
        places[system] = require_weights(layout, MODELS[system])
    for name, place in places.items():
        here, then = weights_sha256(place) if place else "", str(stored.get(name, ""))
        if here != then:
            raise TimbreflowError(
                f"The stored row of {LABELS[system]} is of weights of {name} with sha256 {then[:12] or 'unknown'} and "
                f"{place or 'this checkout'} holds {here[:12] or 'none'}; bring those weights back, or run "
                f"`timbreflow evaluate --testset {testset}` for a new table."
            )


def _from_table(folder: Path, testset: str, system: str) -> ClipScores:
    """A row of an earlier table."""
    if not (folder / "per_clip.csv").is_file():
        raise TimbreflowError(
            f"{folder / 'per_clip.csv'} is missing: nothing is stored of {system}; evaluate {testset}."
        )
    table = read_per_clip(folder / "per_clip.csv")
    digests = read_json(folder / "metrics.json")
    rows = table[table["system"] == system].reset_index(drop=True)
    return ClipScores(system, testset, str(digests["test_digest"]), str(digests["metric_digest"]), rows)
