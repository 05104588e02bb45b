"""`timbreflow evaluate --testset NAME`: the table of a frozen test set, with the released weights.

It is no stage of the pipeline: its clips and weights are frozen, so what it gives depends on neither a rendering nor a
training here. Where a released model is missing, the one trained here takes its place, and the table says so.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from timbreflow.data.manifest import read_manifest
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.per_clip import read_scores, scores_path
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.evaluator import SetResult, Timing
from timbreflow.evaluation.external import ExternalOutputs
from timbreflow.evaluation.scores import CLIP_METRICS, DISTANCES
from timbreflow.evaluation.systems import SYSTEMS, System
from timbreflow.evaluation.table import (
    LABELS,
    REFERENCES,
    ROWS,
    SLOW,
    TestsetTable,
    classifier_accuracy,
    joined,
    make_comparisons,
    make_figures,
    make_generalisation,
)
from timbreflow.files import atomic_directory, atomic_file, read_json, write_json
from timbreflow.metrics.statistics import Interval
from timbreflow.models.bundle import weights_sha256
from timbreflow.reporting.markdown import render_markdown, render_text
from timbreflow.stages.layout import Layout
from timbreflow.stages.report import MetricLogger, StageReport, ignore_metrics
from timbreflow.testsets.exam import (
    MODELS,
    VOCODER,
    Exam,
    absence,
    features_and_vocoder,
    find_weights,
    require_weights,
    results_folder,
)
from timbreflow.testsets.frozen import SAMPLE_RATE

COUNTERPART = {"artificial": "seen", "seen": "artificial"}
"""The set with the same notes on the other kind of timbre."""


def run(
    testset: str,
    config: EvaluationConfig,
    *,
    layout: Layout,
    systems: Sequence[str] = (),
    clips: int = 0,
    outputs: Path | None = None,
    name: str = "",
    out: Path | None = None,
    device: str | None = None,
    log: MetricLogger = ignore_metrics,
) -> StageReport:
    """Evaluate a frozen test set and write OUT/NAME/{metrics.json, timing.json, per_clip.csv, table.md}.

    Args:
        testset: artificial, seen or real, below data/testsets.
        config: section `evaluate`; its sets, systems and max_triples are not looked at.
        layout: paths.
        systems: rows of the table, copies and oracle always among them; none takes all that are there, and only
            then, or into a folder of its own, is the table written.
        clips: take so many triples, and write nothing; 0 takes all.
        outputs: folder with another program's outputs, ID.wav each, which become one more row; the table is then
            written only into a folder of its own.
        name: of that row; empty takes the folder's name.
        out: None is results/testsets.
        device: auto, cpu or cuda; None takes TIMBREFLOW_DEVICE.
        log: gets (triples done, figures).

    Returns:
        A report whose summary is the table.

    Raises:
        TimbreflowError: the set, the timbre metric or the weights of an asked row are missing, or data is broken.
    """
    if clips < 0:
        raise TimbreflowError(f"There are no {clips} clips; give a number from 1, or none for all.")
    unknown = sorted(set(systems) - set(ROWS))
    if unknown:
        raise TimbreflowError(f"There is no system {unknown[0]!r}; choose from {', '.join(ROWS)}.")
    row = (name or outputs.resolve().name) if outputs is not None else ""
    if row in ROWS:
        raise TimbreflowError(f"The table has a row {row} already; give the outputs another --name.")
    wanted = [name for name in ROWS if not systems or name in systems or name in REFERENCES]
    models = [name for name in wanted if name in MODELS]
    found = {name: find_weights(layout, MODELS[name]) for name in models}
    missing = [name for name in models if found[name] is None]
    if missing and systems:
        require_weights(layout, MODELS[missing[0]])
    notes = [f"{LABELS[name]} is left out: {absence(layout, MODELS[name])}." for name in missing]
    notes += [
        f"{LABELS[name]}: there are no released weights, those trained here were taken."
        for name, folder in found.items()
        if folder == layout.model(MODELS[name])
    ]
    heard = Exam(testset, config, layout=layout, clips=clips, device=device)
    test_digest = heard.test_digest
    slow = [name for name in wanted if name in SLOW]
    stored, silent = _stored(layout, heard, slow, test_digest=None if clips else test_digest, strict=bool(systems))
    builders = {name: SYSTEMS[name].build for name in wanted if name not in SLOW and name not in missing}
    if outputs is not None:
        external = ExternalOutputs(
            outputs,
            heard.clips.triple_ids,
            sample_rate=SAMPLE_RATE,
            n_samples=int(read_manifest(heard.folder)["n_samples"].max()),
        )
        builders[row] = lambda _: external
        notes += external.notes
    result, built = heard.listen(builders, log=log)
    table = _table(
        heard,
        result,
        built,
        stored,
        found | {VOCODER: features_and_vocoder(layout)[1]},
        notes=[*notes, *silent, *heard.notes],
        test_digest=test_digest,
        config=config,
    )
    whole = not clips and (out is not None or not (systems or outputs))
    if not clips:
        table = _with_generalisation(table, results_folder(layout, out))
    if whole:
        _write(results_folder(layout, out) / testset, table, _per_clip(heard, result, stored))
    flat = {
        f"testset/{testset}/{system}/{metric}": interval.value
        for system, row in table.figures.items()
        for metric, interval in row.items()
    }
    log(len(heard.clips), flat)
    return StageReport(
        summary=render_text(table),
        metrics=flat,
        files={"table": results_folder(layout, out) / testset / "table.md"} if whole else {},
    )


def _per_clip(exam: Exam, result: SetResult, stored: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows of all systems, with the column family: 1 right, 0 wrong, NaN where there is none to be right about."""
    computed = pd.DataFrame(result.rows).drop(columns="set")
    if exam.classifier is not None:
        truth = computed["triple_id"].map(exam.families())
        for column, heard in (("family", "family_heard"), ("family_target", "family_of_target")):
            computed[column] = (computed[heard] == truth).astype(float).where(truth.notna())
        computed = computed.drop(columns=["family_heard", "family_of_target"])
    return joined(computed, stored)


def _table(
    exam: Exam,
    result: SetResult,
    systems: Mapping[str, System],
    stored: Mapping[str, pd.DataFrame],
    weights: Mapping[str, Path | None],
    *,
    notes: Sequence[str],
    test_digest: str,
    config: EvaluationConfig,
) -> TestsetTable:
    clips = _per_clip(exam, result, stored)
    draws: dict[str, int] = {"samples": config.bootstrap_samples, "seed": config.seed}
    own: Interval | None = None
    if "family_target" in clips:
        own = classifier_accuracy(clips.loc[clips["system"] == "content_copied", "family_target"].tolist(), **draws)
    timing = {}
    for name, system in systems.items():
        spent = result.seconds[name]
        timing[name] = Timing(result.audio_seconds / spent if spent > 0 else None, system.parameters)
    return TestsetTable(
        testset=exam.testset,
        n_triples=len(exam.clips),
        figures=make_figures(clips, result.embeddings, **draws),
        comparisons=make_comparisons(clips, **draws),
        timing=timing,
        classifier=own,
        metric_digest=exam.metric_digest,
        test_digest=test_digest,
        weights={name: weights_sha256(folder) for name, folder in weights.items() if folder is not None},
        notes=tuple(notes),
    )


def _with_generalisation(table: TestsetTable, results: Path) -> TestsetTable:
    """Add the gap seen -> unseen where the other set was evaluated with the same metrics and weights."""
    other = COUNTERPART.get(table.testset)
    path = results / str(other) / "metrics.json"
    if other is None or not path.is_file():
        return table
    stored = read_json(path)
    vocoders = {tables.get(VOCODER) for tables in (stored["weights"], table.weights)}
    if stored.get("metric_digest") != table.metric_digest or len(vocoders) > 1:
        note = f"No gap seen -> unseen: {other} was evaluated with other metrics or another vocoder; evaluate it again."
        return dataclasses.replace(table, notes=(*table.notes, note))
    here = {name: {metric: row[metric].value for metric in DISTANCES} for name, row in table.figures.items()}
    there = {
        name: {metric: row[metric]["value"] for metric in DISTANCES}
        for name, row in stored["systems"].items()
        if stored["weights"].get(name) == table.weights.get(name)
    }
    pair = (here, there) if table.testset == "artificial" else (there, here)
    return dataclasses.replace(table, generalisation=make_generalisation(*pair))


def _stored(
    layout: Layout, exam: Exam, systems: Sequence[str], *, test_digest: str | None, strict: bool
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Per-clip files of slow baselines, and sentences on those that are missing or of other clips or metrics."""
    tables, notes = {}, []
    for system in systems:
        path = scores_path(layout.root, system, exam.testset)
        try:
            scores = read_scores(path, test_digest=test_digest, metric_digest=exam.slow_metric_digest)
        except TimbreflowError as error:
            if strict:
                raise
            notes.append(f"{LABELS[system]} is left out: {error}".replace(f"{layout.root}/", ""))
        else:
            tables[system] = scores.table
    return tables, notes


def _write(folder: Path, table: TestsetTable, clips: pd.DataFrame) -> None:
    columns = ["triple_id", "system", *CLIP_METRICS, "onset_f1_content", "onset_f1_target"]
    with atomic_directory(folder) as place:
        write_json(place / "metrics.json", table.metrics())
        write_json(place / "timing.json", {name: vars(entry) for name, entry in table.timing.items()})
        with atomic_file(place / "per_clip.csv") as temporary:
            kept = [*columns, *(name for name in ("family",) if name in clips)]
            clips[kept].to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
        with atomic_file(place / "table.md") as temporary:
            temporary.write_text(render_markdown(table), encoding="utf-8")
