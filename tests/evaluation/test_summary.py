"""Figures, ratios and differences of a test set's table, from figures of clips that are known."""

import math

import numpy as np
import pandas as pd
import pytest
from timbreflow.evaluation.evaluator import Timing
from timbreflow.evaluation.table import (
    TestsetTable,
    classifier_accuracy,
    joined,
    make_comparisons,
    make_figures,
    make_generalisation,
)

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.statistics import Interval
from timbreflow.reporting.markdown import render_markdown, render_text

LEVELS = {  # lsd, timbre, onset F1
    "content_copied": (16.0, 0.40, 0.60),
    "style_copied": (20.0, 0.10, 0.05),
    "vqvae_base": (12.0, 0.20, 0.45),
    "glow": (10.0, 0.15, 0.54),
    "oracle": (3.0, 0.02, 0.50),
}
N = 40


def clip_rows(seed: int = 0) -> pd.DataFrame:
    """Every system with one shared wobble a clip and a small one of its own."""
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=N)
    rows = []
    for system, (lsd, timbre, f1) in LEVELS.items():
        own = 0.1 * draw.normal(size=N)
        own -= own.mean()
        for clip in range(N):
            wobble = shared[clip] - shared.mean() + own[clip]
            rows.append(
                {
                    **{"triple_id": f"t{clip:02d}", "system": system, "lsd": lsd + wobble},
                    **dict.fromkeys(("timbre", "timbre_mfcc"), timbre + 0.01 * wobble),
                    **{"pitch": 0.5, "onset_f1": f1, "stft": 1.0},
                    **{"onset_f1_content": 0.60, "onset_f1_target": 0.50},
                    "family": math.nan if clip == 0 else float(clip % 2 == 0 or system == "glow"),
                }
            )
    return pd.DataFrame(rows)


def stored_rows() -> pd.DataFrame:
    table = clip_rows()
    return table[table["system"] == "vqvae_base"].drop(columns=["system", "onset_f1_content", "onset_f1_target"])


def test_ratios_and_gaps_are_those_of_the_means() -> None:
    figures = make_figures(clip_rows(), {}, samples=300, seed=0)
    glow = figures["glow"]
    assert glow["lsd_ratio"].value == pytest.approx(10 / 16)
    assert glow["timbre_gap_closed"].value == pytest.approx((0.40 - 0.15) / (0.40 - 0.02))
    # The ceiling is the content's F1, since the transcriber hears the target worse.
    assert glow["note_score"].value == pytest.approx(0.54 / 0.60)
    assert glow["family"].value == 1.0
    assert figures["vqvae_base"]["family"].value == pytest.approx(19 / 39)
    assert figures["oracle"]["timbre_gap_closed"].value == pytest.approx(1.0)
    assert "frechet" not in glow
    # Clips wobble together: paired draws leave the ratio far surer than the LSD.
    spread = glow["lsd"].high - glow["lsd"].low
    assert glow["lsd_ratio"].high - glow["lsd_ratio"].low < 0.5 * spread / 10


def test_paired_differences_cover_what_the_project_promises() -> None:
    rows = joined(clip_rows(), {"transcribe_and_render": stored_rows()})
    comparisons = make_comparisons(rows, samples=300, seed=0)
    assert list(comparisons) == [
        "glow - vqvae_base",
        "glow - transcribe_and_render",
        "vqvae_base - transcribe_and_render",
    ]
    first = comparisons["glow - vqvae_base"]
    assert first["lsd"].value == pytest.approx(-2.0)
    assert first["lsd"].high < 0
    assert first["note_score"].value == pytest.approx(0.09 / 0.60)
    assert comparisons["vqvae_base - transcribe_and_render"]["lsd"] == Interval(0.0, 0.0, 0.0)


def test_a_stored_row_is_cut_to_the_clips_heard_and_refused_where_one_is_missing() -> None:
    heard = clip_rows()
    heard = heard[heard["triple_id"] < "t10"]
    rows = joined(heard, {"musaicing": stored_rows()})
    assert rows["system"].drop_duplicates().tolist()[:3] == ["content_copied", "style_copied", "musaicing"]
    assert len(rows[rows["system"] == "musaicing"]) == 10
    assert rows["onset_f1_content"].notna().all()
    with pytest.raises(TimbreflowError, match="other clips"):
        joined(clip_rows(), {"musaicing": stored_rows().iloc[1:]})
    with pytest.raises(TimbreflowError, match="other clips"):
        joined(clip_rows(), {"musaicing": pd.concat([stored_rows(), stored_rows()])})
    with pytest.raises(TimbreflowError, match="column stft"):
        joined(clip_rows(), {"musaicing": stored_rows().drop(columns="stft")})


def test_generalisation_is_of_makers_alone() -> None:
    distances = {"lsd": 12.0, "timbre": 0.3, "timbre_mfcc": 0.2, "pitch": 0.5}
    seen = {name: distances | {"timbre": 0.2} for name in ("content_copied", "glow")}
    gap = make_generalisation(dict.fromkeys(("content_copied", "glow", "vqvae_base"), distances), seen)
    assert list(gap) == ["glow"]
    assert gap["glow"]["timbre"] == pytest.approx(0.5)


def test_words_hold_every_row_interval_verdict_and_the_published_table() -> None:
    rows = joined(clip_rows(), {"musaicing": stored_rows()})
    table = TestsetTable(
        testset="artificial",
        n_triples=N,
        figures=make_figures(rows, {}, samples=200, seed=0),
        comparisons=make_comparisons(rows, samples=200, seed=0),
        timing={"glow": Timing(23.0, 4_000_000), "oracle": Timing(24.0, 0)},
        classifier=classifier_accuracy([1.0, 0.0, math.nan, 1.0], samples=200, seed=0),
        metric_digest="m",
        test_digest="t",
        generalisation={"glow": {"lsd": 0.1, "timbre": 0.3}},
        notes=("Ulyanov-Lebedev is left out.",),
    )
    text, markdown = render_text(table), render_markdown(table)
    for words in (text, markdown):
        for expected in ("musaicing", "10.00 (", "-2.00 (", "better", "+30 %", "23.0", "4.0 M", "left out", "0.67"):
            assert expected in words
    assert "12.16" in markdown
    assert max(map(len, text.splitlines())) < 160
    heads = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in heads)
    stored = table.metrics()
    assert stored["systems"]["glow"]["lsd"]["value"] == pytest.approx(10.0)
    assert "23.0" not in str(stored)


def test_no_target_with_a_family_gives_no_accuracy() -> None:
    assert classifier_accuracy([math.nan], samples=10, seed=0) is None
