"""`timbreflow evaluate --testset NAME --recompute SYSTEM`: whether a stored row can be reproduced, and storing one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.stored import StoredRow, read_stored, stored_path, write_stored
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.evaluate import REFINER, VOCODER
from timbreflow.evaluation.storage import TABLE, read_table
from timbreflow.evaluation.systems import COMPUTED, SYSTEMS
from timbreflow.files import read_json
from timbreflow.inference.refining import refiner_beside, refiner_sha256
from timbreflow.models.bundle import weights_sha256
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, ignore_metrics
from timbreflow.testsets.evaluate import TestSetEvaluation, is_stored, require_system
from timbreflow.testsets.weights import features_and_vocoder, require_weights

LSD_TOLERANCE = 0.05
"""dB by which the mean LSD of clips computed again may differ from the stored one."""


@dataclass(frozen=True)
class Recomputed:
    """Mean LSD (dB) of a row computed again beside the stored one, and the largest difference on one clip."""

    system: str
    clips: int
    stored: float
    recomputed: float
    largest: float

    @property
    def reproduced(self) -> bool:
        """Whether the means agree within `LSD_TOLERANCE`."""
        return abs(self.recomputed - self.stored) <= LSD_TOLERANCE

    @property
    def sentence(self) -> str:
        """The same for people."""
        verdict = "reproduced" if self.reproduced else "NOT reproduced"
        return (
            f"{SYSTEMS[self.system].label}: LSD {self.recomputed:.3f} now, {self.stored:.3f} stored, difference "
            f"{self.recomputed - self.stored:+.3f} dB over {self.clips} clips (largest of one clip "
            f"{self.largest:.3f}): {verdict} within {LSD_TOLERANCE} dB."
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
    """Compute a row again on the first clips and compare its LSD with what is stored of it.

    A stored baseline is compared with released/baselines, another row with the table in `out`, or results/testsets.

    Raises:
        TimbreflowError: there is no such row, nothing is stored of it, or that is of other weights or metrics.
    """
    if clips < 1:
        raise TimbreflowError(f"{clips} clips cannot be recomputed; give 1 or more.")
    require_system(system)
    if not is_stored(system, testset, layout):
        stored = _from_table((layout.results("testsets") if out is None else out) / testset, testset, system, layout)
    else:
        stored = read_stored(stored_path(layout.baselines, system, testset))
    evaluation = TestSetEvaluation(testset, config, layout=layout, clips=clips, device=device)
    return compare(_compute(evaluation, system, layout, log, say), stored, clips)


def compare(recomputed: StoredRow, stored: StoredRow, clips: int) -> Recomputed:
    """Compare the LSD of the first clips of a stored row with that computed again.

    Raises:
        TimbreflowError: the metrics are others, or a triple was not recomputed.
    """
    if recomputed.metric_digest != stored.metric_digest:
        raise TimbreflowError(
            f"the stored row of {stored.system} on {stored.set} has metric_digest {stored.metric_digest[:12]} and the "
            f"present one is {recomputed.metric_digest[:12]}: its figures belong to other metrics; compute it again."
        )
    before = stored.table.set_index("triple_id")["lsd"].sort_index().iloc[:clips]
    now = recomputed.table.set_index("triple_id")["lsd"]
    missing = before.index.difference(now.index)
    if len(missing):
        raise TimbreflowError(f"the triple {missing[0]} was not recomputed; compute the first {clips} of the set.")
    now = now.loc[before.index]
    largest = float((now - before).abs().max())
    return Recomputed(stored.system, len(before), float(before.mean()), float(now.mean()), largest)


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
    """Compute a stored baseline on the whole set, which takes hours; returns its file below released/baselines.

    Raises:
        TimbreflowError: the row is not stored but computed with every table, or the set is missing.
    """
    require_system(system)
    if system in COMPUTED and system != "vqvae-2021":
        others = ", ".join(name for name in SYSTEMS if name not in COMPUTED)
        raise TimbreflowError(
            f"{system} is computed with every table, so it is not stored; --store takes {others} or vqvae-2021."
        )
    evaluation = TestSetEvaluation(testset, config, layout=layout, device=device)
    path = stored_path(layout.baselines, system, testset)
    write_stored(path, _compute(evaluation, system, layout, log, say))
    return path


def _compute(
    evaluation: TestSetEvaluation, system: str, layout: Layout, log: MetricLogger, say: Callable[[str], None]
) -> StoredRow:
    table = evaluation.run([system], log=log, say=say).table
    stored = is_stored(system, evaluation.testset, layout)
    metric_digest = evaluation.stored_metric_digest if stored else evaluation.metric_digest
    return StoredRow(system, evaluation.testset, evaluation.test_digest, metric_digest, table)


def _from_table(folder: Path, testset: str, system: str, layout: Layout) -> StoredRow:
    """A row of an earlier table, if it is of the weights that are here: of others no figure can be reproduced."""
    if not (folder / TABLE).is_file():
        raise TimbreflowError(f"{folder / TABLE} is missing: nothing is stored of {system}; evaluate {testset}.")
    metrics = read_json(folder / "metrics.json")
    spec = SYSTEMS[system]
    if spec.weights or spec.kind == "ceiling":
        places = {VOCODER: features_and_vocoder(layout)[1]}
        if spec.weights:
            places[system] = folder = require_weights(layout, spec.weights)
            places[REFINER] = refiner_beside(folder) if refiner_sha256(folder) else None
        for name, place in places.items():
            here, then = weights_sha256(place) if place else "", str(metrics.get("weights", {}).get(name, ""))
            if here != then:
                raise TimbreflowError(
                    f"The stored row of {spec.label} is of weights of {name} with sha256 {then[:12] or 'unknown'} and "
                    f"{place or 'this checkout'} holds {here[:12] or 'none'}; bring those weights back, or run "
                    f"`timbreflow evaluate --testset {testset}` for a new table."
                )
    table = read_table(folder)
    rows = table[table["system"] == system].reset_index(drop=True)
    return StoredRow(system, testset, str(metrics["test_digest"]), str(metrics["metric_digest"]), rows)
