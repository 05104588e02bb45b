"""The evaluate stage from end to end: real writers, real renders, real (untrained) networks, all of them tiny."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pretty_midi
import pytest
import soundfile
import torch

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer
from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import write_clip_notes, write_manifest
from timbreflow.data.shards import write_shard
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.models.bundle import ModelBundle, save_bundle, weights_sha256
from timbreflow.models.catalogue import known_model
from timbreflow.models.content import ContentConfig
from timbreflow.models.glow.model import Glow, GlowConfig
from timbreflow.models.quantizer import QuantizerConfig
from timbreflow.models.style import StyleConfig
from timbreflow.models.timbre_metric import TripletConfig, TripletNetwork
from timbreflow.models.vqvae import VQVAE, VQVAEConfig
from timbreflow.stages.evaluate import evaluate_again, run
from timbreflow.stages.layout import Layout
from timbreflow.stages.report import run as tell

RATE = 16_000
FEATURES = FeatureConfig("log_mel", RATE, 1024, 1000, 500, 40, 20.0, 8000.0, 0.01)
CONFIG = EvaluationConfig(
    sets=("test", "test_seen"),
    systems=("content_copied", "style_copied", "vqvae-2021", "vqvae", "glow", "oracle"),
    max_triples=0,
    temperature=0.667,
    variance_scale=1.05,
    seed=1,
    griffin_lim_iterations=8,
    griffin_lim_momentum=0.99,
    batch_size=2,
    bootstrap_samples=200,
    examples=2,
    worst_examples=1,
)


def render(pitches: list[int], program: int, *, seconds: float) -> np.ndarray:
    """A clip [N] of one instrument playing notes one after another, as `PrettyMIDI.fluidsynth` sounds it."""
    music = pretty_midi.PrettyMIDI()
    instrument = pretty_midi.Instrument(program)
    step = seconds / len(pitches)
    for index, pitch in enumerate(pitches):
        instrument.notes.append(pretty_midi.Note(90, pitch, index * step, (index + 0.9) * step))
    music.instruments.append(instrument)
    sound = music.fluidsynth(fs=RATE).astype(np.float32)
    sound = np.pad(sound, (0, max(0, int(seconds * RATE) - len(sound))))[: int(seconds * RATE)]
    return 0.07 * sound / np.sqrt(np.mean(sound**2))


def write_clips(layout: Layout, *, triples: int, seconds: float) -> None:
    """data/audio with the sets test and test_seen, made with the writers of the data package."""
    rows, notes = [], []
    draw = np.random.default_rng(3)
    for split in ("test", "test_seen"):
        clips, split_rows = [], []
        for number in range(triples):
            content_notes, style_notes = (draw.integers(50, 75, size=8).tolist() for _ in range(2))
            before, after = draw.choice([0, 11, 24, 40, 56, 68, 73, 19], size=2, replace=False).tolist()
            for role, pitches, program in (
                ("content", content_notes, before),
                ("style", style_notes, after),
                ("target", content_notes, after),
            ):
                clip_id = f"{split}-{number:03d}-{role}"
                sound = render(pitches, program, seconds=seconds)
                clips.append((clip_id, encode_flac(sound, RATE)))
                step = seconds / len(pitches)
                notes += [
                    {"clip_id": clip_id, "onset": i * step, "duration": 0.9 * step, "pitch": pitch, "velocity": 90}
                    for i, pitch in enumerate(pitches)
                ]
                split_rows.append(
                    {
                        **dict.fromkeys(("track", "transposition", "bank", "n_effects"), 0),
                        **dict.fromkeys(("start", "gain_db"), 0.0),
                        **{"clip_id": clip_id, "triple_id": f"{split}-{number:03d}", "split": split, "role": role},
                        **{"piece_id": f"piece-{number}", "duration": seconds, "timbre_id": f"t{program}"},
                        **{"soundfont": "TimGM6mb", "program": program, "n_layers": 1, "timbre": "{}"},
                        **{"class_id": "0", "n_onsets": 8, "n_samples": len(sound)},
                        **{"peak": float(abs(sound).max()), "rms": 0.07},
                    }
                )
        shard = f"{split}/shard-00000.tar"
        entries = {entry.clip_id: entry for entry in write_shard(layout.audio / shard, clips)}
        for row in split_rows:
            entry = entries[str(row["clip_id"])]
            rows.append({**row, "shard": shard, "offset": entry.offset, "nbytes": entry.nbytes})
    write_manifest(layout.audio, rows)
    write_clip_notes(layout.audio, notes)


def write_models(layout: Layout, features: FeatureConfig) -> None:
    """Bundles of all models that the stage asks for: untrained, but with true statistics."""
    torch.manual_seed(0)
    sound = torch.from_numpy(render([60, 64, 67, 72], 0, seconds=2.0))[None]
    raw = FeatureExtractor(features)(sound)[0]
    normalizer = Normalizer(raw.mean(dim=1), raw.std(dim=1) + 0.5)
    content = ContentConfig("residual", 16, 2, 1, False, 0, 0)
    quantizer = QuantizerConfig(16, 8, 1, "euclidean", 0.99, 0.0, 1)
    style = StyleConfig("tokens", 16, 8, 2, 1, 16, 0, 0.0)
    vqvae = VQVAEConfig(features.n_features, content, quantizer, style, "film", 16, 1, 0.0)
    glow = GlowConfig(features.n_features, content, quantizer, style, 0, 0, 16, 1, 2, 2, 16, 1, 3, 2.0, True, 0.0)
    for name, kind, model in (
        ("vqvae", "vqvae", VQVAE(vqvae)),
        ("vqvae-2021", "vqvae", VQVAE(vqvae)),
        ("glow", "glow", Glow(glow)),
    ):
        for buffer in model.buffers():  # actnorm and codebooks count as initialised
            if buffer.dtype == torch.bool or buffer.numel() == 1:
                buffer.fill_(1)
        save_bundle(layout.model(name), ModelBundle(kind, model, features, normalizer))
    triplet = TripletNetwork(TripletConfig(12, 16, (4, 4, 4, 2)))
    save_bundle(layout.model("timbre_metric"), ModelBundle("triplet", triplet, features, None))


def write_curves(layout: Layout, run_name: str) -> None:
    folder = layout.root / "results" / run_name
    folder.mkdir(parents=True)
    steps = np.arange(10, 510, 10)
    pd.DataFrame({"step": steps, "train_loss": 3 / np.sqrt(steps), "val_loss": 3.2 / np.sqrt(steps)}).to_csv(
        folder / "curves.csv", index=False
    )


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("project"))
    write_clips(layout, triples=3, seconds=2.0)
    write_models(layout, FEATURES)
    write_curves(layout, "train_vqvae/base")
    run(CONFIG, FEATURES, layout=layout, device="cpu")
    tell(CONFIG, layout=layout)
    return layout


def test_metrics_are_plain_figures_of_every_row(evaluated: Layout) -> None:
    metrics = json.loads((evaluated.results("evaluate") / "metrics.json").read_text())
    for split in CONFIG.sets:
        assert set(metrics[split]) == set(CONFIG.systems)
        for figures in metrics[split].values():
            assert {"lsd", "timbre", "timbre_mfcc", "pitch", "onset_f1", "note_score"} <= set(figures)
            assert all(np.isfinite(value) for value in figures.values())
        assert metrics[split]["oracle"]["timbre_gap_closed"] == pytest.approx(1.0)
        assert metrics[split]["content_copied"]["lsd_gap_closed"] == 0.0
        # Not pitch: 40 mel bands and 8 iterations lose more of it than a neighbouring instrument does.
        for metric in ("lsd", "timbre_mfcc"):
            assert min(metrics[split], key=lambda system: metrics[split][system][metric]) == "oracle"
        assert metrics[split]["content_copied"]["onset_f1"] > metrics[split]["style_copied"]["onset_f1"]
    assert re.fullmatch("[0-9a-f]{64}", metrics["metric_digest"])
    assert re.fullmatch("[0-9a-f]{64}", metrics["test_digest"])
    assert "real_time" not in json.dumps(metrics)
    assert metrics["weights"] == {
        **{
            name: {"weights_sha256": weights_sha256(evaluated.model(name)), "refiner_sha256": "", "vocoder_sha256": ""}
            for name in ("vqvae-2021", "vqvae", "glow")
        },
        "timbre_metric": {"weights_sha256": weights_sha256(evaluated.model("timbre_metric"))},
    }


def test_the_clip_table_and_sounds_lie_beside_them(evaluated: Layout) -> None:
    folder = evaluated.results("evaluate")
    assert {path.name for path in folder.iterdir()} == {"examples", "metrics.json", "per_clip.parquet", "timing.json"}
    rows = pd.read_parquet(folder / "per_clip.parquet")
    assert len(rows) == 2 * 3 * len(CONFIG.systems)
    metrics = json.loads((folder / "metrics.json").read_text())
    own = rows[(rows["set"] == "test") & (rows["system"] == "glow")]
    assert own["lsd"].mean() == pytest.approx(metrics["test"]["glow"]["lsd"], abs=1e-3)
    index = json.loads((folder / "examples" / "index.json").read_text())
    assert [entry["triple_id"] for entry in index if entry["set"] == "test" and not entry["worst_of"]] == [
        "test-000",
        "test-002",
    ]
    worst = next(entry for entry in index if (entry["set"], entry["worst_of"]) == ("test", "glow"))
    assert worst["triple_id"] == own.loc[own["lsd"].idxmax(), "triple_id"]
    assert worst["sounds"] == ["content", "style", "target", "glow"]
    for entry in index:
        for name in entry["sounds"]:
            sound, rate = soundfile.read(folder / "examples" / f"{entry['triple_id']}-{name}.flac")
            assert (len(sound), rate) == (2 * RATE, RATE)
            assert sound.std() > 1e-3


def test_the_figures_for_people_are_few(evaluated: Layout) -> None:
    few = json.loads((evaluated.results("report") / "metrics.json").read_text())
    metrics = json.loads((evaluated.results("evaluate") / "metrics.json").read_text())
    assert set(few) == {"vqvae-2021", "vqvae", "glow"}
    assert all(set(row) == {"lsd", "timbre", "note_score"} for row in few.values())
    assert few["glow"]["lsd"] == metrics["test"]["glow"]["lsd"]


def test_tables_and_plots_lie_beside_the_report(evaluated: Layout) -> None:
    folder = evaluated.results("report")
    metrics = json.loads((evaluated.results("evaluate") / "metrics.json").read_text())
    scores = json.loads((folder / "scores.json").read_text())["test"]
    assert set(scores["systems"]["glow"]["frechet"]) == {"value"}
    lsd = scores["systems"]["glow"]["lsd"]
    assert lsd["low"] <= lsd["value"] <= lsd["high"]
    # The page and the gate have the very same figures, though each made its own of the table.
    assert {key: entry["value"] for key, entry in scores["systems"]["glow"].items()} == metrics["test"]["glow"]
    assert set(scores["comparisons"]) == {"vqvae-2021 - vqvae", "vqvae-2021 - glow", "vqvae - glow"}
    assert len(list((folder / "plots").glob("panels-*.png"))) == 4
    systems = pd.read_csv(folder / "plots" / "systems.csv")
    assert len(systems) == 2 * len(CONFIG.systems) and {"set", "system", "lsd", "timbre"} <= set(systems)
    assert {f"{distance}_gap_closed" for distance in ("lsd", "timbre", "timbre_mfcc", "pitch")} <= set(systems)
    assert "Set test (unseen timbres): 3 triples" in (folder / "table.md").read_text(encoding="utf-8")


def test_the_report_holds_its_players_and_asks_nothing_of_the_network(evaluated: Layout) -> None:
    page = (evaluated.results("report") / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{1,40})""", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\((?!#)|@import|<link[^>]+stylesheet|fetch\(", page)
    # 2 sets x (2 examples x 7 sounds + 1 worst clip x 3 models x 4 sounds)
    assert page.count("<audio controls") == 2 * (2 * 7 + 3 * 4)
    assert page.count("data:audio/") == page.count("data:image/jpeg") == page.count("<audio controls")
    # Curves, and bars of four distances and a plane for each of two sets; their colours are the page's.
    assert page.count('<svg class="chart"') == 1 + 2 * 5
    assert not re.search(r"#0[12]0[0-9a-f]{3}", page)
    assert "var(--glow)" in page and page.count("--glow: #") == 2
    assert "12.16" in page  # the 2021 paper's VQ-VAE
    assert len(page) < 25_000_000


def test_an_evaluation_says_how_far_it_is(
    evaluated: Layout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("timbreflow.progress_lines.SECONDS_BETWEEN_LINES", -1.0)
    with caplog.at_level("INFO", "timbreflow"):
        evaluate_again(
            replace(CONFIG, sets=("test",)), FEATURES, known_model("vqvae"), evaluated.model("vqvae"), layout=evaluated
        )
    said = [message.split(",")[0] for message in caplog.messages if "evaluated" in message]
    assert said == ["2 of 3 triples evaluated", "3 of 3 triples evaluated"]


def test_a_second_run_gives_the_same_metrics_and_evaluate_again_the_same_row(evaluated: Layout) -> None:
    first = json.loads((evaluated.results("evaluate") / "metrics.json").read_text())
    again, table = evaluate_again(
        CONFIG, FEATURES, known_model("glow"), evaluated.model("glow"), layout=evaluated, device="cpu"
    )
    assert again["metric_digest"] == first["metric_digest"]
    assert again["test_digest"] == first["test_digest"]
    for split in CONFIG.sets:
        assert {"lsd", "timbre_mfcc", "note_score"} <= set(again[split]["glow"])
        alike = {name: first[split]["glow"][name] for name in again[split]["glow"]}
        assert again[split]["glow"] == pytest.approx(alike, rel=1e-3, abs=1e-3)
    assert set(table["system"]) == {"glow"}
    assert set(table["set"]) == set(CONFIG.sets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"systems": ("content_copied", "violin")}, "violin"),
        ({"sets": ("train",)}, "train"),
        ({"sets": ()}, "at least one"),
    ],
)
def test_settings_that_cannot_be_met_are_named(evaluated: Layout, change: dict[str, tuple], message: str) -> None:
    before = sorted(evaluated.results("evaluate").iterdir())
    with pytest.raises(TimbreflowError, match=message):
        run(replace(CONFIG, **change), FEATURES, layout=evaluated, device="cpu")
    assert sorted(evaluated.results("evaluate").iterdir()) == before


def test_missing_data_or_weights_name_the_file(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with pytest.raises(TimbreflowError, match=r"manifest\.parquet is missing"):
        run(CONFIG, FEATURES, layout=layout, device="cpu")
    write_clips(layout, triples=1, seconds=1.0)
    with pytest.raises(TimbreflowError, match=r"timbre_metric.*is missing"):
        run(CONFIG, FEATURES, layout=layout, device="cpu")
    assert not layout.results("evaluate").exists()
