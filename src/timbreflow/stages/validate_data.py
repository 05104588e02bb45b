"""Stage validate_data: nothing is trained on data that fails a suite.

`passed.json`, which every training stage depends on, holds the suites' names and the digest of the data and nothing
else, so that looser limits or a new page retrain nothing.
"""

import dataclasses
import hashlib
from pathlib import Path

import pandas as pd

from timbreflow.data.manifest import are_recordings
from timbreflow.data.splits import timbre_palette
from timbreflow.files import sha256_file, write_json
from timbreflow.rendering.config import RenderConfig
from timbreflow.rendering.soundfonts import find_soundfonts, list_all_presets
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult, ignore_metrics
from timbreflow.validation.config import ExpectedData, ValidationConfig
from timbreflow.validation.history import conclude
from timbreflow.validation.recordings import recording_suites, recording_tables
from timbreflow.validation.run import Outcome, run_suites
from timbreflow.validation.suites import build_suites
from timbreflow.validation.tables import (
    clip_table,
    level_table,
    mel_table,
    note_table,
    piece_table,
    split_table,
    statistics_table,
    timbre_table,
    triple_table,
)

STAGE = "validate_data"


def run(
    config: ValidationConfig, render: RenderConfig, *, layout: Layout, log: MetricLogger = ignore_metrics
) -> StageResult:
    """Check manifest, clip notes and features; write a page and metrics.json, and passed.json when all is well.

    Raises:
        InvalidData: an expectation failed; it is named, with its suite, column and rows.
        TimbreflowError: a file is missing or cannot be read.
    """
    results = layout.results(STAGE)
    # First of all: whatever happens below, this data has not passed yet.
    (results / "passed.json").unlink(missing_ok=True)
    expected = expected_data(render, layout=layout)
    clips = level_table(layout.audio, config)
    if are_recordings(clips):
        statistics, settings = statistics_table(layout.mels)
        tables = recording_tables(clips, layout.mels, statistics)
        suites = recording_suites(config, expected.n_samples, settings)
    else:
        clips = clip_table(layout.audio, config, expected)
        notes = note_table(layout.audio, clips)
        statistics, settings = statistics_table(layout.mels)
        tables = {
            "manifest": clips,
            "triples": triple_table(clips, notes),
            "splits": split_table(clips, notes, expected),
            "pieces": piece_table(clips),
            "timbres": timbre_table(clips, expected),
            "clip_notes": notes,
            "mels": mel_table(layout.mels, clips),
            "statistics": statistics,
        }
        suites = build_suites(config, expected, settings)
    outcome = run_suites(tables, suites)
    metrics = _metrics(clips, outcome)
    write_json(results / "metrics.json", metrics)
    log(0, metrics)
    digest, page = data_digest(layout), results / "data_docs" / "index.html"
    history = conclude(
        outcome,
        data="data",
        digest=digest,
        page=page,
        history=results / "history.csv",
        remedy="then correct the parameters or run render_triples and extract_mels again",
    )
    write_json(results / "passed.json", {"suites": sorted(outcome.rows), "digest": digest})
    summary = f"{len(outcome.checked)} expectations in {len(outcome.rows)} suites hold for {len(clips)} clips."
    rows = [{"suite": name, "expectations": count} for name, count in outcome.expectations.items()]
    return StageResult(summary, metrics, {"suites": rows, "history": history}, {"data docs": page})


def expected_data(render: RenderConfig, *, layout: Layout) -> ExpectedData:
    """What the data must hold by the section render_triples.

    Raises:
        TimbreflowError: test plays held-out programs, and a SoundFont that decides which these are is missing.
    """
    held_out: frozenset[int] = frozenset()
    if render.triples.test and not any(font.role == "test" for font in render.soundfonts):
        presets = list_all_presets(find_soundfonts(render.soundfonts, layout.soundfonts))
        palette = timbre_palette("test", presets, render.soundfonts, render.splits)
        held_out = frozenset(preset.program for preset in palette.presets)
    return ExpectedData(
        triples=dataclasses.asdict(render.triples),
        n_samples=round(render.clip_seconds * render.sample_rate),
        min_onsets=render.min_onsets,
        transposition=render.transposition,
        max_layers=render.timbre.max_layers,
        test_soundfonts=frozenset(font.name for font in render.soundfonts if font.role == "test"),
        held_out_programs=held_out,
    )


def data_digest(layout: Layout) -> str:
    """sha256 over the names and contents of everything in data/audio and data/mels."""
    digest = hashlib.sha256()
    for root in (layout.audio, layout.mels):
        for path in sorted(path for path in Path(root).rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(layout.root).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _metrics(clips: pd.DataFrame, outcome: Outcome) -> dict[str, float]:
    sounding = clips.loc[~clips["silent"], "rms_dbfs"]
    return {
        "expectations": float(len(outcome.checked)),
        "failed_expectations": float(len(outcome.failures)),
        "suites": float(len(outcome.rows)),
        "clips": float(len(clips)),
        "silent_fraction": float(clips["silent"].mean()) if len(clips) else 0.0,
        "clipped_fraction": float(clips["clipped"].mean()) if len(clips) else 0.0,
        "mean_rms_dbfs": float(sounding.mean()) if len(sounding) else -200.0,
    }
