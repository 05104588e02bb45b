"""Figures, ratios and differences of a per-clip table whose figures are known, and the tables that show them."""

import math

import numpy as np
import pandas as pd
import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation import summary as summary_module
from timbreflow.evaluation.evaluate import Timing
from timbreflow.evaluation.summary import Summary, generalisation, plain, summarize
from timbreflow.metrics import registry
from timbreflow.metrics.registry import METRICS, Metric
from timbreflow.metrics.statistics import Interval
from timbreflow.reporting import markdown as markdown_module
from timbreflow.reporting.markdown import Table, render_markdown, render_text
from timbreflow.testsets.evaluate import PAIRS

LEVELS = {  # lsd, timbre, onset F1
    "content_copied": (16.0, 0.40, 0.60),
    "style_copied": (20.0, 0.10, 0.05),
    "vqvae": (12.0, 0.20, 0.45),
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
                    **{"set": "artificial", "triple_id": f"t{clip:02d}", "system": system, "lsd": lsd + wobble},
                    **dict.fromkeys(("timbre", "timbre_mfcc"), timbre + 0.01 * wobble),
                    **{"pitch": 0.5, "onset_f1": f1, "stft": 1.0},
                    **{"onset_f1_content": 0.60, "onset_f1_target": 0.50},
                    "family": math.nan if clip == 0 else float(clip % 2 == 0 or system == "glow"),
                    "family_target": math.nan if clip == 0 else float(clip % 3 > 0),
                }
            )
    return pd.DataFrame(rows)


def summary_of(table: pd.DataFrame, **settings: object) -> Summary:
    return summarize(table, pairs=PAIRS, samples=300, seed=0, **settings)["artificial"]  # type: ignore[arg-type]


def with_row(name: str, like: str = "vqvae", without: str = "") -> pd.DataFrame:
    """The clips with one more system, of figures that another one has."""
    table = clip_rows()
    row = table[table["system"] == like].assign(system=name)
    return pd.concat([table, row.drop(columns=without) if without else row], ignore_index=True)


def test_ratios_and_gaps_are_those_of_the_means() -> None:
    figures = summary_of(clip_rows()).figures
    glow = figures["glow"]
    assert glow["lsd_ratio"].value == pytest.approx(10 / 16)
    assert glow["timbre_gap_closed"].value == pytest.approx((0.40 - 0.15) / (0.40 - 0.02))
    # The ceiling is the content's F1, since the transcriber hears the target worse.
    assert glow["note_score"].value == pytest.approx(0.54 / 0.60)
    assert glow["family"].value == 1.0
    assert figures["vqvae"]["family"].value == pytest.approx(19 / 39)
    assert figures["oracle"]["timbre_gap_closed"].value == pytest.approx(1.0)
    assert "frechet" not in glow
    # Clips wobble together: paired draws leave the ratio far surer than the LSD.
    spread = glow["lsd"].high - glow["lsd"].low
    assert glow["lsd_ratio"].high - glow["lsd_ratio"].low < 0.5 * spread / 10


def test_the_order_of_rows_changes_nothing() -> None:
    table = clip_rows()
    assert summary_of(table.sample(frac=1, random_state=1)) == summary_of(table)
    assert list(summary_of(table).figures) == list(LEVELS)


def test_paired_differences_cover_what_the_project_promises() -> None:
    differences = summary_of(with_row("transcribe_and_render")).differences
    assert list(differences) == [
        "glow - vqvae",
        "glow - transcribe_and_render",
        "vqvae - transcribe_and_render",
    ]
    first = differences["glow - vqvae"]
    assert first["lsd"].value == pytest.approx(-2.0)
    assert first["lsd"].high < 0
    assert first["note_score"].value == pytest.approx(0.09 / 0.60)
    assert differences["vqvae - transcribe_and_render"]["lsd"] == Interval(0.0, 0.0, 0.0)


def test_intervals_are_over_instruments_of_targets() -> None:
    table = clip_rows()
    number = table["triple_id"].str[1:].astype(int)
    # Every instrument has a level of its own, which single clips take for 10 independent findings.
    table["lsd"] += (number // 10) * 2.0
    table.loc[table["family"].notna() & (table["system"] == "glow"), "family"] = (number // 10 % 2).astype(float)
    clustered = summary_of(table.assign(instrument="font/0/" + (number // 10).astype(str)))
    single = summary_of(table)
    for metric in ("lsd", "family"):
        widths = [s.figures["glow"][metric].high - s.figures["glow"][metric].low for s in (clustered, single)]
        assert widths[0] > 1.5 * widths[1]
    # The level is the instrument's, not the system's: the paired difference stays sure.
    difference = clustered.differences["glow - vqvae"]["lsd"]
    assert difference.high - difference.low < 0.2
    assert clustered.figures["glow"]["lsd"].value == pytest.approx(single.figures["glow"]["lsd"].value)


def test_a_row_without_a_metric_lacks_its_figures_and_no_others() -> None:
    whole = summary_of(with_row("transcribe_and_render"))
    summary = summary_of(with_row("transcribe_and_render", without="stft"))
    assert set(whole.figures["transcribe_and_render"]) - set(summary.figures["transcribe_and_render"]) == {"stft"}
    assert summary.figures["glow"] == whole.figures["glow"]
    assert "stft" not in summary.differences["glow - transcribe_and_render"]
    assert "stft" in summary.differences["glow - vqvae"]
    table = clip_rows()
    table.loc[3, "lsd"] = math.nan
    with pytest.raises(TimbreflowError, match="NaN or infinite for some clip"):
        summary_of(table)


def test_embeddings_give_a_frechet_distance_without_bounds() -> None:
    table = clip_rows()
    draw = np.random.default_rng(3)
    target = list(draw.standard_normal((N, 4)).astype(np.float32))
    table["embedding_target"] = target * len(LEVELS)
    table["embedding"] = [
        vector + (system != "oracle") for system, vector in zip(table["system"], target * 5, strict=True)
    ]
    summary = summary_of(table)
    assert summary.figures["oracle"]["frechet"].value == pytest.approx(0.0, abs=1e-6)
    assert summary.figures["glow"]["frechet"].value == pytest.approx(4.0, abs=1e-3)
    assert set(plain(summary.figures)["glow"]["frechet"]) == {"value"}
    assert set(plain(summary.figures)["glow"]["lsd"]) == {"value", "low", "high"}
    assert summary.values()["glow"]["lsd"] == pytest.approx(10.0)


def test_a_metric_of_the_registry_alone_stands_in_figures_differences_and_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = Metric("hum", "hum", "lower", 1, "How much it hums.", unit="dB", measure=lambda estimate, target, truth: 1.0)
    for module in (registry, summary_module, markdown_module):
        monkeypatch.setattr(module, "METRICS", (*METRICS, new))
    monkeypatch.setitem(registry.BY_NAME, "hum", new)
    summary = summary_of(clip_rows().assign(hum=2.0))
    assert summary.figures["glow"]["hum"] == Interval(2.0, 2.0, 2.0)
    assert summary.differences["glow - vqvae"]["hum"].value == 0.0
    words = render_markdown(Table("Test set artificial", summary, {}))
    assert "hum (dB)" in words and "2.0 (2.0, 2.0)" in words


def test_generalisation_is_of_competitors_alone() -> None:
    distances = {"lsd": 12.0, "timbre": 0.3, "timbre_mfcc": 0.2, "pitch": 0.5}
    seen = {name: distances | {"timbre": 0.2} for name in ("content_copied", "glow")}
    gap = generalisation(dict.fromkeys(("content_copied", "glow", "vqvae"), distances), seen)
    assert list(gap) == ["glow"]
    assert gap["glow"]["timbre"] == pytest.approx(0.5)


def test_words_hold_every_row_interval_verdict_and_the_published_table() -> None:
    summary = summary_of(with_row("musaicing", without="stft"))
    table = Table(
        heading="Test set artificial",
        summary=summary,
        timing={"glow": Timing(23.0, 4_000_000), "oracle": Timing(24.0, 0)},
        generalisation={"glow": {"lsd": 0.1, "timbre": 0.3}},
        notes=("Ulyanov-Lebedev is left out.",),
    )
    text, markdown = render_text(table), render_markdown(table)
    for words in (text, markdown):
        for expected in ("musaicing", "10.00 (", "-2.00 (", "better", "+30 %", "23.0", "4.0 M", "left out", "0.67"):
            assert expected in words
        assert "-0.00 " not in words
    assert "12.16" in markdown
    assert max(map(len, text.splitlines())) < 160
    heads = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in heads)


def test_no_target_with_a_family_gives_no_accuracy() -> None:
    assert summary_of(clip_rows()).targets_family is not None
    assert summary_of(clip_rows().assign(family=math.nan, family_target=math.nan)).targets_family is None
