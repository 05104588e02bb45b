"""All stages in a row on tiny parameters, in one process: real scores, real sound, real models, a real registry."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from browser import DRIVER, offline_browser
from selenium.webdriver.common.by import By
from tiny_params import tiny

from tests.sharded import run_all
from timbreflow.audio.files import read_audio, write_audio
from timbreflow.config import Params, parse_params, preset_text
from timbreflow.data.manifest import read_manifest, write_manifest
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.stages import (
    collect_midi,
    evaluate,
    extract_mels,
    register_models,
    render_triples,
    report,
    train_glow,
    train_refiner,
    train_timbre_metric,
    train_vocoder,
    train_vqvae,
    validate_data,
)
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import ignore_metrics
from timbreflow.tracking.promotion import promote, rollback
from timbreflow.tracking.registry import register, resolve


@pytest.fixture(scope="module")
def params() -> Params:
    return parse_params(tiny(preset_text("default")), source="tiny")


@pytest.fixture(scope="module")
def layout(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A checkout in which every stage has run."""
    layout = Layout(tmp_path_factory.mktemp("checkout"))
    run_all(collect_midi, params.collect_midi, layout=layout)
    run_all(render_triples, params.render_triples, layout=layout)
    run_all(extract_mels, params.extract_mels, params.audio, layout=layout)
    validate_data.run(params.validate_data, params.render_triples, layout=layout)
    train_timbre_metric.run(params.train_timbre_metric, params.audio, layout=layout, log=ignore_metrics)
    train_vqvae.run("paper", params.train_vqvae.paper, params.audio, layout=layout, log=ignore_metrics)
    train_vqvae.run("base", params.train_vqvae.base, params.audio, layout=layout, log=ignore_metrics)
    train_glow.run(params.train_glow, params.audio, layout=layout, log=ignore_metrics)
    train_refiner.run(params.train_refiner, params.audio, layout=layout, log=ignore_metrics)
    train_vocoder.run(params.train_vocoder, params.audio, layout=layout, log=ignore_metrics)
    evaluate.run(params.evaluate, params.audio, layout=layout)
    report.run(params.evaluate, layout=layout)
    register_models.run(params.register_models, layout=layout, register=partial(register, root=layout.root))
    return layout


@pytest.mark.timeout(600)
def test_every_stage_leaves_metrics_without_paths_and_times(layout: Layout) -> None:
    for stage in ("collect_midi", "render_triples", "extract_mels", "validate_data", "evaluate", "register_models"):
        text = (layout.results(stage) / "metrics.json").read_text(encoding="utf-8")
        assert str(layout.root) not in text
        assert "seconds_per" not in text


def test_the_table_has_every_row_and_metric(layout: Layout, params: Params) -> None:
    metrics = read_json(layout.results("evaluate") / "metrics.json")
    for name in params.evaluate.sets:
        assert set(metrics[name]) >= set(params.evaluate.systems)
        for system in params.evaluate.systems:
            assert set(metrics[name][system]) >= {"lsd", "timbre", "timbre_mfcc", "pitch", "onset_f1", "note_score"}


def test_the_oracle_beats_both_copies_on_lsd(layout: Layout) -> None:
    metrics = read_json(layout.results("evaluate") / "metrics.json")["test"]
    assert metrics["oracle"]["lsd"] < min(metrics["content_copied"]["lsd"], metrics["style_copied"]["lsd"])


def test_both_models_transfer_a_stereo_recording(layout: Layout, tmp_path: Path) -> None:
    time = np.arange(3 * 22050) / 22050
    content = np.stack([np.sin(440 * 2 * np.pi * time), np.sin(550 * 2 * np.pi * time)]).astype(np.float32) / 4
    write_audio(tmp_path / "content.ogg", content, 22050)
    write_audio(tmp_path / "style.wav", np.sign(content[:1]) / 8, 22050)
    length = read_audio(tmp_path / "content.ogg")[0].shape[1]
    for name in ("vqvae", "glow"):
        session = TimbreTransfer.load(resolve(name, root=layout.root).folder)
        session.transfer_file(tmp_path / "content.ogg", tmp_path / "style.wav", tmp_path / f"{name}.wav")
        made, rate = read_audio(tmp_path / f"{name}.wav")
        assert made.shape == (2, length)
        assert rate == 22050
        assert 0.01 < float(np.sqrt((made**2).mean())) < 1


def test_promotion_passes_once_and_then_has_nothing_to_roll_back_to(layout: Layout, params: Params) -> None:
    again = partial(evaluate.evaluate_again, params.evaluate, params.audio, layout=layout)
    result = promote("timbreflow-glow", params.register_models.gate, root=layout.root, evaluate=again)
    assert result.promoted, result.table()
    assert "champion" in resolve("glow", root=layout.root).description
    with pytest.raises(TimbreflowError, match="first champion"):
        rollback("timbreflow-glow", root=layout.root)


def test_a_planted_fault_stops_all_training(layout: Layout, params: Params, tmp_path: Path) -> None:
    broken = Layout(tmp_path / "broken")
    shutil.copytree(layout.root / "data", broken.root / "data")
    manifest = read_manifest(broken.audio)
    manifest.loc[0, "rms"] = 0.0
    write_manifest(broken.audio, manifest)
    with pytest.raises(TimbreflowError, match="rms"):
        validate_data.run(params.validate_data, params.render_triples, layout=broken)
    before = (broken.model("glow") / "weights.safetensors").stat().st_mtime_ns
    with pytest.raises(TimbreflowError, match="validate_data"):
        train_glow.run(params.train_glow, params.audio, layout=broken, log=ignore_metrics)
    assert (broken.model("glow") / "weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.skipif(DRIVER is None, reason="needs Debian's packages chromium and chromium-driver")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_works_in_a_browser_without_a_network(layout: Layout, width: int) -> None:
    with offline_browser(width) as browser:
        browser.get((layout.results("report") / "report.html").as_uri())
        assert browser.find_elements(By.TAG_NAME, "table")
        assert browser.find_elements(By.TAG_NAME, "svg")
        pictures = browser.find_elements(By.TAG_NAME, "img")
        assert pictures
        browser.set_script_timeout(30)
        # Pictures far below the window are lazy: they are loaded only when somebody scrolls there.
        load = (
            "const [picture, done] = arguments; picture.loading = 'eager';"
            "picture.decode().then(() => done(picture.naturalWidth), () => done(0));"
        )
        assert all(browser.execute_async_script(load, picture) > 0 for picture in pictures)
        # Sound starts only for somebody who has touched the page.
        browser.find_element(By.TAG_NAME, "h1").click()
        player = browser.find_element(By.TAG_NAME, "audio")
        seconds = browser.execute_async_script(
            "const [player, done] = arguments; player.muted = true;"
            "player.addEventListener('timeupdate', () => player.currentTime > 0.3 && done(player.duration));"
            "player.addEventListener('error', () => done('error ' + player.error.message));"
            "player.play().catch(error => done(String(error)));",
            player,
        )
        assert seconds == pytest.approx(8.0, abs=0.2)
        overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
