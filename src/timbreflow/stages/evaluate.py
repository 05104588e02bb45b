"""Stage evaluate: every system on the test clips, as the per-clip table and the plain figures that the gate needs."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from timbreflow.audio.features import FeatureConfig
from timbreflow.evaluation.clips import EvaluationClips, digest_of_clips
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.digest import digest_of_metrics
from timbreflow.evaluation.evaluate import Evaluation, evaluate, open_context
from timbreflow.evaluation.storage import EXAMPLES, write_evaluation
from timbreflow.evaluation.summary import Summary, generalisation, plain, summarize
from timbreflow.evaluation.systems import SYSTEMS, build_systems
from timbreflow.files import atomic_directory, write_json
from timbreflow.inference.vocoding import identity, vocoder_beside
from timbreflow.metrics.analysis import FeatureCache
from timbreflow.metrics.embedding import load_embed
from timbreflow.metrics.registry import BY_NAME, METRICS
from timbreflow.metrics.transcription import Transcriber
from timbreflow.models.bundle import WEIGHTS, weights_sha256
from timbreflow.models.catalogue import KnownModel
from timbreflow.models.devices import resolve_device
from timbreflow.progress_lines import ProgressLines
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult, ignore_metrics
from timbreflow.workers import available_cores

STAGE = "evaluate"
SAID = ("lsd", "timbre", "note_score")
"""Metrics of the one sentence that the stage ends with."""

logger = logging.getLogger(__name__)


def run(
    config: EvaluationConfig,
    features: FeatureConfig,
    *,
    layout: Layout,
    device: str | None = None,
    log: MetricLogger = ignore_metrics,
) -> StageResult:
    """Evaluate all systems and write results/evaluate, whole or not at all.

    Raises:
        TimbreflowError: data, weights or a setting is missing or unusable.
    """
    vocoder = layout.model("vocoder")
    evaluation, summaries, metrics = _evaluate(
        config, features, layout=layout, model_folder=layout.model, vocoder=vocoder, device=device, log=log
    )
    with atomic_directory(layout.results(STAGE)) as place:
        write_evaluation(place, evaluation)
        # DVC wants the folder, also where no sounds were asked for.
        (place / EXAMPLES).mkdir(exist_ok=True)
        write_json(place / "metrics.json", metrics)
    flat = {key: value for split, own in summaries.items() for key, value in own.flat(f"eval/{split}").items()}
    done = sum(summary.n_triples for summary in summaries.values())
    log(done, flat)
    return StageResult(
        summary=_sentence(summaries[config.sets[0]], config.sets[0], done),
        metrics=flat,
        tables={split: _rows(summary) for split, summary in summaries.items()},
    )


def evaluate_again(
    config: EvaluationConfig,
    features: FeatureConfig,
    model: KnownModel,
    folder: Path,
    *,
    layout: Layout,
    device: str | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure one model on today's test clips with today's metrics, without writing anything.

    Promotion needs it where an opponent was measured by other code or on other clips. A vocoder beside the bundle in
    `folder` is used. Returns the content of metrics.json and the per-clip table.

    Raises:
        TimbreflowError: data, weights or a setting is missing or unusable.
    """
    evaluation, _, metrics = _evaluate(
        replace(config, systems=(model.name,), examples=0, worst_examples=0),
        features,
        layout=layout,
        model_folder=lambda name: folder,
        vocoder=vocoder_beside(folder),
        device=device,
        log=ignore_metrics,
    )
    return metrics, evaluation.table


def _evaluate(
    config: EvaluationConfig,
    features: FeatureConfig,
    *,
    layout: Layout,
    model_folder: Callable[[str], Path],
    vocoder: Path,
    device: str | None,
    log: MetricLogger,
) -> tuple[Evaluation, dict[str, Summary], dict[str, Any]]:
    """The evaluation, its figures by set, and the content of metrics.json."""
    where = resolve_device(device)
    sets = [
        EvaluationClips(layout.audio, name, sample_rate=features.sample_rate, max_triples=config.max_triples)
        for name in config.sets
    ]
    metric_digest = digest_of_metrics(layout.model("timbre_metric") / WEIGHTS, config)
    context = open_context(config, features, model_folder=model_folder, vocoder=vocoder, device=where)
    systems = build_systems(config.systems, context)
    # Hashed as soon as they are loaded: an evaluation takes long enough for others to put new ones there.
    weights = {
        name: identity(model_folder(SYSTEMS[name].weights), vocoder) for name in systems if SYSTEMS[name].weights
    }
    weights["timbre_metric"] = {"weights_sha256": weights_sha256(layout.model("timbre_metric"))}
    lines = ProgressLines(logger, "triples evaluated", sum(map(len, sets)))

    def progress(done: int) -> None:
        lines.show(done)
        log(done, {"eval/triples": float(done)})

    evaluation = evaluate(
        sets,
        systems,
        FeatureCache(
            Transcriber(threads=available_cores()),
            load_embed(layout.model("timbre_metric"), device=where),
            sample_rate=features.sample_rate,
        ),
        config,
        device=where,
        examples=config.examples,
        worst=config.worst_examples,
        progress=progress,
    )
    summaries = summarize(evaluation.table, samples=config.bootstrap_samples, seed=config.seed)
    metrics: dict[str, Any] = {split: summary.values() for split, summary in summaries.items()}
    if {"test", "test_seen"} <= set(summaries):
        gaps = generalisation(summaries["test"].means(), summaries["test_seen"].means())
        metrics |= {"generalisation_gap": plain(gaps)} if gaps else {}
    metrics |= {"metric_digest": metric_digest, "test_digest": digest_of_clips(sets), "weights": weights}
    return evaluation, summaries, metrics


def _rows(summary: Summary) -> list[dict[str, Any]]:
    shown = [metric.name for metric in METRICS if metric.group != "ratio"]
    return [
        {"system": SYSTEMS[name].label, **{key: row[key] for key in shown if key in row}}
        for name, row in summary.values().items()
    ]


def _sentence(summary: Summary, lead: str, n_triples: int) -> str:
    parts = [
        f"{SYSTEMS[name].label}: "
        + ", ".join(f"{BY_NAME[key].label} {BY_NAME[key].text(row[key].value)}" for key in SAID)
        for name, row in summary.figures.items()
        if SYSTEMS[name].kind != "reference"
    ]
    return f"Evaluated {n_triples} triples; on {lead}: " + "; ".join(parts) + "."
