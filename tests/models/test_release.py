"""Releases: rounded weights, cards that tell the training data, no rewritten weights, and a clone that uses them."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.inference.tiny import FEATURES, build, melody, save_bundles
from timbreflow.audio.features import Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.files import sha256_file, write_json
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.metrics.registry import BY_NAME
from timbreflow.models import release as release_module
from timbreflow.models.average import average
from timbreflow.models.bundle import ModelBundle, load_bundle, save_bundle
from timbreflow.models.model_card import COLUMNS, catalogued
from timbreflow.stages.layout import Layout
from timbreflow.tracking.registry import resolve

ORIGIN = {"fonts": ("TimGM6mb", "A320U", "mine"), "corpora": ("music21/bach", "freedoom")}


def release(name: str, folder: Path, *, layout: Layout, **facts: object) -> str:
    return release_module.release(
        name, folder, released=layout.root / "released", tables=layout.results("testsets"), **facts
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "checkout")


@pytest.fixture
def trained(tmp_path: Path) -> dict[str, Path]:
    return save_bundles(tmp_path / "trained")


def test_the_released_model_is_half_as_large_and_plays_the_same(layout: Layout, trained: dict[str, Path]) -> None:
    for name, folder in trained.items():
        said = release(name, folder, layout=layout, **ORIGIN)
        place = layout.root / "released" / name
        assert sorted(path.name for path in place.iterdir()) == ["README.md", "config.json", "weights.safetensors"]
        sizes = [(each / "weights.safetensors").stat().st_size for each in (place, folder)]
        assert sizes[0] < 0.75 * sizes[1]
        assert str(place) in said
        exact, halved = (TimbreTransfer.load(each) for each in (folder, place))
        assert {value.dtype for value in halved.bundle.model.parameters()} == {torch.float32}
        clips = torch.randn(2, 1, 40, 64, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            made = [each.bundle.model.transfer(*clips, temperature=0.0) for each in (exact, halved)]
        assert float((made[0] - made[1]).abs().mean()) < 0.02
    assert sorted(path.name for path in (layout.root / "released").iterdir()) == ["glow", "vqvae"]


def test_the_card_names_sources_licences_cost_and_use(layout: Layout, trained: dict[str, Path]) -> None:
    release("glow", trained["glow"], layout=layout, **ORIGIN, cost="3 h on 2 CPU cores")
    card = (layout.root / "released" / "glow" / "README.md").read_text(encoding="utf-8")
    for line in (
        "# glow: Glow",
        "cost: 3 h on 2 CPU cores",
        "| TimGM6mb | SoundFont: python package pretty_midi | GPL-2 (font) |",
        "| A320U | SoundFont: debian package denemo-data | GPL-2 |",
        "| mine | SoundFont | the user's own file |",
        "| music21/bach | notes: python package music21 | public domain works, free encodings |",
        "BSD-3-Clause",
        "--fit-style 50",
        "--mode convert",
        "have not been evaluated",
    ):
        assert line in card, line


def test_the_card_tells_the_precision_that_auto_chose(layout: Layout, trained: dict[str, Path]) -> None:
    bundle = load_bundle(trained["glow"])
    section = {"fit": {"batch_size": 16, "grad_accumulation": 1, "precision": "auto"}}
    facts = {"section": section, "precision": "bfloat16", "steps": 100, "best_step": 90}
    save_bundle(trained["glow"], dataclasses.replace(bundle, training=facts))
    release("glow", trained["glow"], layout=layout, **ORIGIN)
    card = (layout.root / "released" / "glow" / "README.md").read_text(encoding="utf-8")
    assert "samples seen: 1,600, in batches of 16 (bfloat16)" in card


def test_the_card_says_what_was_averaged(layout: Layout, trained: dict[str, Path], tmp_path: Path) -> None:
    mean = average(load_bundle(trained["vqvae"]), load_bundle(trained["vqvae"]), share=0.25, origin="5a4e")
    save_bundle(tmp_path / "mean", mean)
    release("vqvae-2021", tmp_path / "mean", layout=layout, **ORIGIN)
    card = (layout.root / "released" / "vqvae-2021" / "README.md").read_text(encoding="utf-8")
    assert "averaged afterwards (all weights): 25% are of the weights `5a4e`" in card
    assert "--model vqvae-2021" in card


def test_figures_come_in_when_these_very_weights_were_evaluated(layout: Layout, trained: dict[str, Path]) -> None:
    release("vqvae", trained["vqvae"], layout=layout, **ORIGIN, cost="an hour")
    place = layout.root / "released" / "vqvae"
    digest = sha256_file(place / "weights.safetensors")
    systems = {
        "vqvae": {"lsd": {"value": 9.5, "low": 9.1, "high": 9.9}},
        "content_copied": {"lsd": {"value": 16.0}},
    }
    for testset, weights in (("artificial", digest), ("real", "0" * 64)):
        metrics = {"systems": systems, "weights": {"vqvae": weights}, "triples": 240}
        write_json(layout.results("testsets") / testset / "metrics.json", metrics)
    # From its own folder: the same weights, and what was said of them before.
    said = release("vqvae", place, layout=layout, fonts=(), corpora=())
    card = (place / "README.md").read_text(encoding="utf-8")
    assert sha256_file(place / "weights.safetensors") == digest
    assert "| artificial | 240 | 9.5 (9.1 to 9.9) [16] |" in card
    assert "| real |" not in card
    assert "an hour" in card and "A320U" in card
    assert "figures of artificial; changed: README.md." in said


def test_equal_weights_are_not_written_again(layout: Layout, trained: dict[str, Path]) -> None:
    release("vqvae", trained["vqvae"], layout=layout, **ORIGIN, cost="an hour")
    place = layout.root / "released" / "vqvae"
    weights, config, card = (place / name for name in ("weights.safetensors", "config.json", "README.md"))

    def states() -> list[tuple[int, int]]:
        return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (weights, config, card)]

    before = states()
    assert "is up to date" in release("vqvae", place, layout=layout, fonts=(), corpora=())
    assert states() == before
    card.write_text("other words\n", encoding="utf-8")
    before = states()
    release("vqvae", trained["vqvae"], layout=layout, **ORIGIN, cost="an hour")
    assert states()[:2] == before[:2] and "an hour" in card.read_text(encoding="utf-8")
    release("vqvae", place, layout=layout, fonts=(), corpora=(), cost="two hours")
    assert states()[0] == before[0] and "two hours" in config.read_text(encoding="utf-8")
    model = load_bundle(place)
    with torch.no_grad():
        next(model.model.parameters()).mul_(2)
    save_bundle(trained["vqvae"], model)
    release("vqvae", trained["vqvae"], layout=layout, **ORIGIN)
    assert states()[0] != before[0]


def test_every_font_and_corpus_of_the_long_preset_is_known() -> None:
    fonts = (
        "TimGM6mb",
        "FluidR3_GM",
        "FluidR3Mono_GM",
        "MuseScore_General_Lite",
        "sf_GMbank",
        "A320U",
        "OPL-3_FM_128M",
    )
    for source in (*fonts, "music21", "freedoom", "freedm", "simutrans-data", "pianobooster", "mma"):
        assert catalogued(source) is not None, source


@pytest.mark.parametrize(
    ("name", "kind", "message"), [("wave", "glow", "no model 'wave'"), ("glow", "vqvae", "holds a vqvae, but glow is")]
)
def test_wrong_names_are_refused(layout: Layout, trained: dict[str, Path], name: str, kind: str, message: str) -> None:
    with pytest.raises(TimbreflowError, match=message):
        release(name, trained[kind], layout=layout, **ORIGIN)
    with pytest.raises(TimbreflowError, match=r"config\.json is missing"):
        release("glow", trained["glow"].parent, layout=layout, **ORIGIN)
    assert not (layout.root / "released" / name).exists()


def test_the_cap_counts_all_that_is_released_and_leaves_the_old_model(
    layout: Layout, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    release("glow", trained["glow"], layout=layout, **ORIGIN)
    place = layout.root / "released"
    before = sha256_file(place / "glow" / "config.json")
    (place / "testsets").mkdir()
    (place / "testsets" / "notes.parquet").write_bytes(bytes(400_000))
    monkeypatch.setattr(release_module, "MAX_BYTES", 400_000)
    with pytest.raises(TimbreflowError, match=r"would hold 0 MB|would hold 1 MB"):
        release("glow", trained["glow"], layout=layout, **ORIGIN, cost="new")
    assert sha256_file(place / "glow" / "config.json") == before
    assert sorted(path.name for path in place.iterdir()) == ["glow", "testsets"]
    monkeypatch.setattr(release_module, "MAX_BYTES", 800_000)
    release("glow", trained["glow"], layout=layout, **ORIGIN, cost="new")
    assert sha256_file(place / "glow" / "config.json") != before


def test_weights_that_rounding_destroys_are_refused(layout: Layout, tmp_path: Path) -> None:
    model = build("vqvae")
    with torch.no_grad():
        next(model.decoder.parameters()).mul_(1e-7)  # type: ignore[union-attr, operator]
    normalizer = Normalizer(torch.zeros(40), torch.ones(40))
    save_bundle(tmp_path / "small", ModelBundle("vqvae", model, FEATURES, normalizer, {}))
    with pytest.raises(TimbreflowError, match="by rounding"):
        release("vqvae", tmp_path / "small", layout=layout, **ORIGIN)
    assert not any((layout.root / "released").iterdir())


def test_a_fresh_clone_transfers_with_the_released_weights(
    layout: Layout, trained: dict[str, Path], tmp_path: Path
) -> None:
    """Nothing trained, no registry: the command line finds released/ by itself, and nothing is written beside OUT."""
    for name, folder in trained.items():
        release(name, folder, layout=layout, **ORIGIN)
    for file in ("dvc.yaml", "params.yaml"):
        (layout.root / file).write_text("{}\n")
    assert "released vqvae" in resolve("vqvae", root=layout.root).description
    soundfile.write(tmp_path / "a.wav", melody(1, 16000), 16000)
    before = set(layout.root.rglob("*"))
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = ["transfer", "../a.wav", "../a.wav", "-o", "../out.wav", "--model", "glow", "--fit-style", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "timbreflow.cli", *command],
        cwd=layout.root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "the released glow" in done.stderr
    sound, _ = soundfile.read(tmp_path / "out.wav")
    assert len(sound) == 16000
    assert np.abs(sound).max() > 0
    assert set(layout.root.rglob("*")) == before


def test_the_timbre_metric_stays_exact(layout: Layout, tmp_path: Path) -> None:
    from timbreflow.models.timbre_metric import TripletConfig, TripletNetwork

    torch.manual_seed(0)
    model = TripletNetwork(TripletConfig(n_coefficients=12, channels=8, kernels=(4, 4, 4, 2)))
    digest = save_bundle(tmp_path / "metric", ModelBundle("triplet", model, FEATURES, None, {"begun": "5eed"}))
    release("timbre_metric", tmp_path / "metric", layout=layout, **ORIGIN)
    place = layout.root / "released" / "timbre_metric"
    assert sha256_file(place / "weights.safetensors") == digest
    assert load_bundle(place).kind == "triplet"
    card = (place / "README.md").read_text(encoding="utf-8")
    assert "in full precision" in card
    assert "| input | MFCC 2 to 13" in card
    assert "continued from the weights with sha256 `5eed`" in card


def test_cards_call_figures_as_tables_do() -> None:
    assert {name: BY_NAME[name].head for name in COLUMNS} == COLUMNS
