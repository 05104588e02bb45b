"""Stage evaluate: every system on the frozen test sets, with figures, plots, sounds and the report."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from timbreflow.audio.features import FeatureConfig
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips, digest_of_clips
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.evaluator import SetResult, Timing, evaluate_set
from timbreflow.evaluation.scores import DISTANCES, Scores, digest_of_metrics, per_clip_table, summarise
from timbreflow.evaluation.systems import SYSTEMS, ModelSystem, System, SystemContext, build_systems
from timbreflow.files import atomic_directory, atomic_file, write_json
from timbreflow.inference.catalogue import KnownModel
from timbreflow.inference.vocoding import identity, open_inverter, vocoder_beside
from timbreflow.metrics.analysis import Analyser
from timbreflow.metrics.embedding import load_embed
from timbreflow.metrics.transcription import Transcriber
from timbreflow.models.bundle import WEIGHTS, weights_sha256
from timbreflow.models.devices import resolve_device
from timbreflow.reporting.curves import read_curves
from timbreflow.reporting.figures import save_panels, save_sounds
from timbreflow.reporting.html import render_report
from timbreflow.stages.layout import Layout
from timbreflow.stages.report import MetricLogger, StageReport, ignore_metrics
from timbreflow.workers import available_cores

STAGE = "evaluate"
PLOTTED = ("lsd", "timbre", "timbre_mfcc", "pitch", "onset_f1", "note_score")


def run(
    config: EvaluationConfig,
    features: FeatureConfig,
    *,
    layout: Layout,
    device: str | None = None,
    log: MetricLogger = ignore_metrics,
) -> StageReport:
    """Evaluate all systems and write results/evaluate, whole or not at all.

    Args:
        config: section `evaluate`.
        features: section `audio`.
        layout: paths.
        device: auto, cpu or cuda; None takes TIMBREFLOW_DEVICE.
        log: gets (triples done, figures) as sets go on and all figures at the end.

    Raises:
        TimbreflowError: data, weights or a setting is missing or unusable.
    """
    results, systems, scores = _evaluate(
        config,
        features,
        config.systems,
        layout=layout,
        model_folder=layout.model,
        vocoder=layout.model("vocoder"),
        device=device,
        log=log,
    )
    done = sum(len(result.embeddings["target"]) for result in results)
    timing = _timing(results, systems)
    page = render_report(scores, results, timing=timing, curves=read_curves(layout.root / "results"), config=config)
    _write(layout.results(STAGE), scores, results, timing, page)
    flat = {
        f"eval/{split}/{system}/{metric}": interval.value
        for split, rows in scores.sets.items()
        for system, row in rows.items()
        for metric, interval in row.items()
    }
    log(done, flat)
    return StageReport(
        summary=_summary(scores, config.sets[0], done),
        metrics=flat,
        tables={split: _table(rows) for split, rows in scores.metrics().items() if split in config.sets},
        files={"report": layout.results(STAGE) / "report.html"},
    )


def evaluate_again(
    config: EvaluationConfig,
    features: FeatureConfig,
    model: KnownModel,
    folder: Path,
    *,
    layout: Layout,
    device: str | None = None,
) -> dict[str, Any]:
    """Measure one model on today's test clips with today's metrics, without writing anything.

    Promotion needs it where an opponent was measured by other code or on other clips.

    Args:
        config: section `evaluate`.
        features: section `audio`.
        model: whose row is measured; copied content and oracle stand beside it, for the gap closed.
        folder: the bundle; the vocoder beside it is used if there is one.
        layout: paths.
        device: auto, cpu or cuda; None takes TIMBREFLOW_DEVICE.

    Returns:
        Figures in the shape of metrics.json.

    Raises:
        TimbreflowError: data, weights or a setting is missing or unusable.
    """
    quiet = replace(config, examples=0, worst_examples=0)
    names = ("content_copied", model.system, "oracle")
    _, _, scores = _evaluate(
        quiet,
        features,
        names,
        layout=layout,
        model_folder=lambda name: folder,
        vocoder=vocoder_beside(folder),
        device=device,
        log=ignore_metrics,
    )
    return scores.metrics()


def _evaluate(
    config: EvaluationConfig,
    features: FeatureConfig,
    names: tuple[str, ...],
    *,
    layout: Layout,
    model_folder: Callable[[str], Path],
    vocoder: Path,
    device: str | None,
    log: MetricLogger,
) -> tuple[list[SetResult], dict[str, System], Scores]:
    if not config.sets or not names:
        raise TimbreflowError("evaluate.sets and evaluate.systems in params.yaml must name at least one each.")
    where = resolve_device(device)
    clips = [
        EvaluationClips(layout.audio, name, sample_rate=features.sample_rate, max_triples=config.max_triples)
        for name in config.sets
    ]
    metric_digest = digest_of_metrics(layout.model("timbre_metric") / WEIGHTS, config)
    systems = build_systems(
        names,
        SystemContext(
            features=features,
            model_folder=model_folder,
            device=where,
            temperature=config.temperature,
            variance_scale=config.variance_scale,
            inverter=partial(
                open_inverter,
                vocoder=vocoder,
                n_iter=config.griffin_lim_iterations,
                momentum=config.griffin_lim_momentum,
            ),
        ),
    )
    # Hashed as soon as they are loaded: an evaluation takes long enough for others to put new ones there.
    weights = {
        name: identity(system.folder, vocoder) for name, system in systems.items() if isinstance(system, ModelSystem)
    } | {"timbre_metric": {"weights_sha256": weights_sha256(layout.model("timbre_metric"))}}
    analyse = Analyser(
        Transcriber(threads=available_cores()),
        load_embed(layout.model("timbre_metric"), device=where),
        sample_rate=features.sample_rate,
    )
    results: list[SetResult] = []
    done = 0
    for part in clips:

        def progress(n_triples: int, before: int = done) -> None:
            log(before + n_triples, {"eval/triples": float(before + n_triples)})

        results.append(
            evaluate_set(
                part,
                systems,
                analyse,
                sample_rate=features.sample_rate,
                batch_size=config.batch_size,
                seed=config.seed,
                device=where,
                examples=config.examples,
                worst=config.worst_examples,
                progress=progress,
            )
        )
        done += len(part)
    scores = summarise(
        results,
        models=[name for name in systems if SYSTEMS[name].kind in ("model", "baseline")],
        samples=config.bootstrap_samples,
        seed=config.seed,
        metric_digest=metric_digest,
        test_digest=digest_of_clips(clips),
    )
    return results, systems, replace(scores, weights=weights)


def _timing(results: list[SetResult], systems: dict[str, System]) -> dict[str, Timing]:
    seconds_of_sound = sum(result.audio_seconds for result in results)
    timing = {}
    for name, system in systems.items():
        spent = sum(result.seconds[name] for result in results)
        timing[name] = Timing(seconds_of_sound / spent if spent > 0 else None, system.parameters)
    return timing


def _write(folder: Path, scores: Scores, results: list[SetResult], timing: dict[str, Timing], page: str) -> None:
    with atomic_directory(folder) as place:
        write_json(place / "metrics.json", scores.metrics())
        write_json(place / "scores.json", scores.intervals())
        write_json(place / "timing.json", {name: vars(entry) for name, entry in timing.items()})
        _write_csv(place / "per_clip.csv", per_clip_table(results))
        _write_csv(place / "plots" / "systems.csv", pd.DataFrame(_plot_rows(scores)))
        _write_csv(place / "plots" / "gap_closed.csv", pd.DataFrame(_gap_rows(scores), columns=GAP_COLUMNS))
        for result in results:
            for number, example in enumerate(result.examples):
                name = f"{result.split}-{number:02d}"
                save_sounds(place / "examples" / name, example)
                save_panels(place / "plots" / f"panels-{name}.png", example)
        with atomic_file(place / "report.html") as temporary:
            temporary.write_text(page, encoding="utf-8")


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


GAP_COLUMNS = ["set", "system", "metric", "gap_closed", "low", "high"]


def _plot_rows(scores: Scores) -> list[dict[str, Any]]:
    """One row a set and system, metrics as columns, for bar charts of `dvc plots`."""
    return [
        {"set": split, "system": system, **{metric: row[metric].value for metric in PLOTTED}}
        for split, rows in scores.sets.items()
        for system, row in rows.items()
    ]


def _gap_rows(scores: Scores) -> list[list[Any]]:
    gaps = []
    for split, rows in scores.sets.items():
        for system, row in rows.items():
            for metric in DISTANCES:
                if (interval := row.get(f"{metric}_gap_closed")) is not None:
                    gaps.append([split, system, metric, interval.value, interval.low, interval.high])
    return gaps


def _table(rows: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [
        {"system": SYSTEMS[name].label, **{metric: row[metric] for metric in PLOTTED}} for name, row in rows.items()
    ]


def _summary(scores: Scores, lead: str, n_triples: int) -> str:
    parts = [
        f"{SYSTEMS[name].label}: LSD {row['lsd'].value:.2f}, timbre {row['timbre'].value:.3f}, "
        f"note score {row['note_score'].value:.2f}"
        for name, row in scores.sets[lead].items()
        if SYSTEMS[name].kind in ("model", "baseline", "ceiling")
    ]
    return f"Evaluated {n_triples} triples; on {lead}: " + "; ".join(parts) + "."
