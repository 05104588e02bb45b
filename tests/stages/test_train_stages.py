"""The training stages on triples on a tiny data set written by the real writers: outputs, resumption, refusals."""

import csv
import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests import small
from timbreflow.audio.features import FeatureExtractor
from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import MANIFEST_SCHEMA, write_clip_notes, write_manifest
from timbreflow.data.mels import RunningStatistics, write_mel_index, write_mels, write_statistics
from timbreflow.data.shards import write_shard
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json
from timbreflow.models.bundle import load_bundle, weights_sha256
from timbreflow.models.content import ContentConfig
from timbreflow.models.glow.model import GlowConfig
from timbreflow.models.note_reader import NoteReaderConfig
from timbreflow.models.quantizer import QuantizerConfig
from timbreflow.models.refiner import RefinerConfig
from timbreflow.models.style import StyleConfig
from timbreflow.models.timbre_metric import TimbreEmbedder, TripletConfig, TripletNetwork
from timbreflow.models.vqvae import VQVAEConfig
from timbreflow.stages import train_glow, train_refiner, train_timbre_metric, train_vqvae
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult, ignore_metrics
from timbreflow.training.config import (
    AuxiliaryWeights,
    GlowTraining,
    RefinerTraining,
    TimbreMetricTraining,
    VQVAETraining,
)

RATE, SAMPLES = 16_000, 16_000
LOSSES = AuxiliaryWeights(
    commitment=0.25, roll=0.5, roll_pos_weight=10.0, invariance=0.1, contrastive=0.1, contrastive_temperature=0.1
)
CONTENT = ContentConfig(
    encoder="residual",
    width=16,
    downsample=2,
    n_blocks=1,
    instance_norm=False,
    pianoroll_head_width=8,
    pianoroll_channels=4,
)
QUANTIZER = QuantizerConfig(
    codebook_size=16, code_dim=8, heads=1, distance="euclidean", decay=0.9, dead_code_threshold=0.2, kmeans_iters=3
)
STYLE = StyleConfig(
    encoder="tokens", width=16, dim=8, n_tokens=2, n_blocks=1, chunk_frames=8, max_bin_shift=1, noise=0.01
)
BASE = VQVAETraining(
    features="log_mel",
    pairs="mixed",
    model=VQVAEConfig(
        n_features=24,
        content=CONTENT,
        quantizer=QUANTIZER,
        style=STYLE,
        decoder="film",
        width=16,
        n_blocks=1,
        condition_dropout=0.1,
    ),
    fit=small.FIT,
    reconstruction="l1",
    losses=LOSSES,
    validation_triples=8,
    crop_frames=0,
    online_triples=0,
    init_from="",
)
PAPER = VQVAETraining(
    features="log_stft",
    pairs="self_supervised",
    model=VQVAEConfig(
        n_features=513,
        content=dataclasses.replace(
            CONTENT, encoder="strided", downsample=4, pianoroll_head_width=0, pianoroll_channels=0
        ),
        quantizer=QUANTIZER,
        style=dataclasses.replace(STYLE, encoder="gru", n_tokens=1, chunk_frames=0, max_bin_shift=0, noise=0.0),
        decoder="gru",
        width=16,
        n_blocks=1,
        condition_dropout=0.0,
    ),
    fit=small.FIT,
    reconstruction="mse",
    losses=dataclasses.replace(LOSSES, commitment=0.5, roll=0.0, contrastive=0.0),
    validation_triples=8,
    crop_frames=0,
    online_triples=0,
    init_from="",
)
GLOW = GlowTraining(
    pairs="triples",
    model=GlowConfig(
        n_features=24,
        content=CONTENT,
        quantizer=QUANTIZER,
        style=STYLE,
        decoder_width=0,
        decoder_blocks=0,
        context_width=16,
        n_context_blocks=1,
        n_levels=2,
        n_steps=1,
        hidden_channels=16,
        n_layers=1,
        kernel=3,
        max_log_scale=3.0,
        style_norm=True,
        condition_dropout=0.1,
    ),
    fit=small.FIT,
    noise=0.1,
    l1=0.5,
    l1_every=2,
    losses=LOSSES,
    validation_triples=8,
    crop_frames=0,
    online_triples=0,
    init_from="",
)
REFINER = RefinerTraining(
    pairs="triples",
    models=("vqvae", "glow"),
    model=RefinerConfig(
        n_features=24,
        fmin=small.MELS.fmin,
        fmax=small.MELS.fmax,
        floor=small.MELS.floor,
        style=dataclasses.replace(STYLE, chunk_frames=0, max_bin_shift=0),
        lookup="learned",
        heads=2,
        widths=(8, 12),
    ),
    fit=small.FIT,
    temperature=0.25,
    true_steps=2,
    true_share=0.25,
    note_steps=0,
    validation_triples=8,
    crop_frames=0,
    online_triples=0,
    init_from="",
)
METRIC = TimbreMetricTraining(
    model=TripletConfig(n_coefficients=12, channels=16, kernels=(4, 4)),
    fit=small.FIT,
    margin=0.1,
    hard_negatives=0.25,
    validation_triplets=8,
    cache_mb=16,
)


def sound(pitch: int, brightness: float) -> np.ndarray:
    time = np.arange(SAMPLES) / RATE
    numbers = np.arange(1, 12)
    frequencies = 440 * 2 ** ((pitch - 69) / 12) * numbers
    waves = np.exp(-numbers / brightness)[:, None] * np.sin(2 * np.pi * frequencies[:, None] * time)
    wave = waves.sum(0) * np.exp(-2 * time)
    return np.asarray(0.1 * wave / np.sqrt(np.mean(wave**2)), dtype=np.float32)


def write_data(root: Path) -> Layout:
    """8 training and 8 validation triples of 1 s, four timbres a split, through the writers of data/."""
    layout = Layout(root)
    empty = {field.name: "" if str(field.type) == "string" else 0 for field in MANIFEST_SCHEMA}
    extractor = FeatureExtractor(small.MELS)
    statistics = RunningStatistics(small.MELS.n_features)
    manifest: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    index: list[dict[str, Any]] = []
    random = np.random.default_rng(0)
    for split in ("train", "validation"):
        clips: dict[str, np.ndarray] = {}
        facts: dict[str, dict[str, Any]] = {}
        for triple in range(8):
            first, second = random.choice(np.arange(50, 75), 2, replace=False)
            own, other = triple % 4, (triple + 1) % 4
            for role, pitch, timbre in (("content", first, other), ("style", second, own), ("target", first, own)):
                clip_id = f"{split}-{triple}-{role}"
                clips[clip_id] = sound(int(pitch), 1.0 + 2 * timbre)
                facts[clip_id] = {
                    "clip_id": clip_id,
                    "triple_id": f"{split}-{triple}",
                    "split": split,
                    "role": role,
                    "timbre_id": f"{split}-timbre-{timbre}",
                    "program": timbre,
                }
                notes.append({"clip_id": clip_id, "onset": 0.0, "duration": 1.0, "pitch": int(pitch), "velocity": 90})
        tar = f"{split}/shard-00000.tar"
        entries = write_shard(layout.audio / tar, [(name, encode_flac(wave, RATE)) for name, wave in clips.items()])
        for row, entry in enumerate(entries):
            place = {"shard": tar, "offset": entry.offset, "nbytes": entry.nbytes, "n_samples": SAMPLES}
            manifest.append({**empty, **facts[entry.clip_id], **place})
            index.append({**facts[entry.clip_id], "shard": f"{split}/shard-00000.npy", "row": row})
        mels = extractor(torch.from_numpy(np.stack([clips[entry.clip_id] for entry in entries]))).numpy()
        write_mels(layout.mels / f"{split}/shard-00000.npy", mels)
        if split == "train":
            statistics.update(mels)
    write_manifest(layout.audio, manifest)
    write_clip_notes(layout.audio, notes)
    write_mel_index(layout.mels, index)
    write_statistics(layout.mels, statistics.normalizer(), small.MELS)
    write_json(layout.results("validate_data") / "passed.json", {"data": "1234", "suites": ["manifest"]})
    return layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return write_data(tmp_path)


Run = Callable[..., StageResult]


def run_metric(layout: Layout, log: Any = ignore_metrics, **changes: Any) -> StageResult:
    config = dataclasses.replace(METRIC, **changes)
    return train_timbre_metric.run(config, small.MELS, layout=layout, log=log, device="cpu")


def run_base(layout: Layout, log: Any = ignore_metrics, **changes: Any) -> StageResult:
    return train_vqvae.run(
        "base", dataclasses.replace(BASE, **changes), small.MELS, layout=layout, log=log, device="cpu"
    )


def run_paper(layout: Layout, log: Any = ignore_metrics, **changes: Any) -> StageResult:
    config = dataclasses.replace(PAPER, **changes)
    return train_vqvae.run("paper", config, small.MELS, layout=layout, log=log, device="cpu")


def run_glow(layout: Layout, log: Any = ignore_metrics, **changes: Any) -> StageResult:
    return train_glow.run(dataclasses.replace(GLOW, **changes), small.MELS, layout=layout, log=log, device="cpu")


def run_refiner(layout: Layout, log: Any = ignore_metrics, **changes: Any) -> StageResult:
    for name, run in (("vqvae", run_base), ("glow", run_glow)):
        if not layout.model(name).exists():
            run(layout)
    return train_refiner.run(dataclasses.replace(REFINER, **changes), small.MELS, layout=layout, log=log, device="cpu")


STAGES = {
    "timbre_metric": (run_metric, "train_timbre_metric"),
    "vqvae": (run_base, "train_vqvae/base"),
    "vqvae-2021": (run_paper, "train_vqvae/paper"),
    "glow": (run_glow, "train_glow"),
    "refiner": (run_refiner, "train_refiner"),
}


def test_a_training_tells_its_logger_where_its_checkpoints_lie(layout: Layout) -> None:
    folders: list[Path] = []

    class Logger:
        def __call__(self, step: int, values: Mapping[str, float]) -> None:
            assert folders

        def resume(self, checkpoints: Path) -> None:
            folders.append(checkpoints)

    run_metric(layout, log=Logger())
    assert [folder.parent for folder in folders] == [layout.scratch("train_timbre_metric")]


@pytest.mark.parametrize("name", STAGES)
def test_stage_writes_weights_curves_and_numbers(layout: Layout, name: str) -> None:
    run, results = STAGES[name]
    logged: list[int] = []
    report = run(layout, log=lambda step, values: logged.append(step))
    bundle = load_bundle(layout.model(name))
    assert not bundle.model.training and bundle.training["data"] == {"data": "1234", "suites": ["manifest"]}
    assert bundle.training["precision"] == report.facts["precision"] == "float32"
    metrics = read_json(layout.results(results) / "metrics.json")
    assert metrics == report.metrics and metrics["steps"] == 6
    assert metrics["parameters"] == sum(p.numel() for p in bundle.model.parameters())
    assert not [key for key in metrics if "second" in key]
    with (layout.results(results) / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert {"train_loss", "val_loss"} <= set(rows[0]) and all(value for row in rows for value in row.values())
    if name != "timbre_metric":
        assert "val_l1" in rows[0] and metrics["val_l1"] > 0
    assert logged and not list((layout.root / ".scratch").rglob("step-*"))


def test_paper_keeps_its_own_features(layout: Layout) -> None:
    run_paper(layout)
    bundle = load_bundle(layout.model("vqvae-2021"))
    assert bundle.features == dataclasses.replace(small.MELS, kind="log_stft")
    assert bundle.normalizer is not None and len(bundle.normalizer.mean) == 513


def test_metric_of_the_bundle_embeds_sound(layout: Layout) -> None:
    run_metric(layout)
    network = load_bundle(layout.model("timbre_metric")).model
    assert isinstance(network, TripletNetwork)
    embed = TimbreEmbedder(network)
    pair = np.stack([sound(60, 1.0), sound(64, 8.0)])
    assert embed(pair).shape == (2, 16)
    assert np.allclose(embed(pair)[1], embed(pair[1:])[0], atol=1e-4)


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("name", STAGES)
def test_killed_stage_goes_on_and_ends_with_the_same_weights(
    layout: Layout, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run, _ = STAGES[name]
    run(layout)
    whole = weights_sha256(layout.model(name))

    def kill(step: int, values: Mapping[str, float]) -> None:
        if step >= 5 or (step == 4 and "train/loss" in values):
            raise Killed

    with pytest.raises(Killed):
        run(layout, log=kill)
    with caplog.at_level("INFO", logger="timbreflow"):
        run(layout)
    assert "resumed at step 2 of 6" in caplog.text
    assert weights_sha256(layout.model(name)) == whole


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_trains_in_double_precision(layout: Layout, name: str) -> None:
    run, _ = STAGES[name]
    run(layout, fit=dataclasses.replace(small.FIT, precision="float64"))
    weights = load_bundle(layout.model(name)).model.state_dict()
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("name", STAGES)
def test_nothing_is_trained_on_data_that_has_not_passed(layout: Layout, name: str) -> None:
    run, results = STAGES[name]
    (layout.results("validate_data") / "passed.json").unlink()
    with pytest.raises(TimbreflowError, match="run validate_data"):
        run(layout)
    assert not layout.model(name).exists() and not layout.results(results).exists()


def test_other_data_starts_anew(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    def kill(step: int, values: Mapping[str, float]) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        run_base(layout, log=kill)
    write_json(layout.results("validate_data") / "passed.json", {"data": "5678", "suites": ["manifest"]})
    with caplog.at_level("INFO", logger="timbreflow"):
        run_base(layout)
    assert "resumed" not in caplog.text


def test_model_of_another_size_is_refused(layout: Layout) -> None:
    model = dataclasses.replace(BASE.model, n_features=80)
    with pytest.raises(TimbreflowError, match=r"train_vqvae.base.model.n_features is 80, .* 24 rows"):
        run_base(layout, model=model)


def test_mels_of_other_settings_are_refused(layout: Layout) -> None:
    other = dataclasses.replace(small.MELS, fmax=7000.0)
    with pytest.raises(TimbreflowError, match="run extract_mels"):
        train_glow.run(GLOW, other, layout=layout, log=ignore_metrics, device="cpu")


@pytest.mark.parametrize("change", [{"noise": 0.0}, {"l1": -1.0}, {"l1_every": 0}, {"validation_triples": 0}])
def test_senseless_glow_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(TimbreflowError, match=next(iter(change))):
        dataclasses.replace(GLOW, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["vqvae", "glow"])
def test_training_goes_on_from_given_weights(layout: Layout, name: str) -> None:
    run: Any = {"vqvae": run_base, "glow": run_glow}[name]
    run(layout)
    shutil.copytree(layout.model(name), layout.root / "earlier")
    section: Any = {"vqvae": BASE, "glow": GLOW}[name]
    model = dataclasses.replace(section.model, condition_dropout=section.model.condition_dropout / 2)
    run(layout, init_from="earlier", model=model, fit=dataclasses.replace(section.fit, learning_rate=1e-9))
    first, again = (load_bundle(folder) for folder in (layout.root / "earlier", layout.model(name)))
    assert again.training["begun"] == weights_sha256(layout.root / "earlier")
    for (key, old), new in zip(first.model.named_parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(old, new, msg=key, atol=1e-5, rtol=1e-4)


def test_a_glow_with_a_decoder_begins_with_a_vqvae(layout: Layout) -> None:
    run_base(layout)
    shutil.copytree(layout.model("vqvae"), layout.root / "earlier")
    model = dataclasses.replace(GLOW.model, decoder_width=BASE.model.width, decoder_blocks=BASE.model.n_blocks)
    run_glow(layout, init_from="earlier", model=model, fit=dataclasses.replace(GLOW.fit, learning_rate=1e-9))
    lent, flow = load_bundle(layout.root / "earlier").model, load_bundle(layout.model("glow")).model.state_dict()
    for key, value in lent.named_parameters():
        torch.testing.assert_close(flow[key], value, msg=key, atol=1e-5, rtol=1e-4)
    assert all(bool(value.any()) for key, value in flow.items() if key.endswith("actnorm.log_scale"))


def test_weights_of_another_shape_are_no_beginning(layout: Layout) -> None:
    run_base(layout)
    shutil.copytree(layout.model("vqvae"), layout.root / "earlier")
    with pytest.raises(TimbreflowError, match="earlier holds a model of another shape"):
        run_base(layout, init_from="earlier", model=dataclasses.replace(BASE.model, width=24))


def test_the_refiner_lowers_the_error_of_both_models_and_leaves_them_as_they_are(layout: Layout) -> None:
    run_base(layout)
    run_glow(layout)
    before = {name: weights_sha256(layout.model(name)) for name in REFINER.models}
    fit = dataclasses.replace(small.FIT, steps=30, learning_rate=1e-2, validate_every=30, checkpoint_every=30)
    metrics = run_refiner(layout, fit=fit).metrics
    for name in REFINER.models:
        assert metrics[f"val_l1/{name}"] < 0.95 * metrics[f"val_unrefined/{name}"]
        assert weights_sha256(layout.model(name)) == before[name]
    assert load_bundle(layout.model("refiner")).training["models"] == before


def reader_in(folder: Path) -> dict[str, torch.Tensor]:
    model = load_bundle(folder).model
    return {name: value for name, value in model.state_dict().items() if name.startswith("note_reader.")}


def test_a_reader_is_trained_alone_and_then_stays_while_the_refiner_behind_it_learns(layout: Layout) -> None:
    run_refiner(layout)
    shutil.copytree(layout.model("refiner"), layout.root / "without")
    model = dataclasses.replace(REFINER.model, note_reader=NoteReaderConfig(8, (1,)))
    fit = dataclasses.replace(small.FIT, steps=60, learning_rate=1e-2, validate_every=10, checkpoint_every=60)
    run_refiner(layout, model=model, init_from="without", note_steps=60, fit=fit)
    curves = pd.read_csv(layout.results("train_refiner") / "curves.csv")
    assert curves["train_loss"].iloc[-1] < 0.8 * curves["train_loss"].iloc[0]
    for name in REFINER.models:
        assert 0 <= curves[f"val_note_f1/{name}"].iloc[-1] <= 1
    shutil.copytree(layout.model("refiner"), layout.root / "read")
    earlier, read = (load_bundle(layout.root / name).model.state_dict() for name in ("without", "read"))
    for name, value in earlier.items():
        torch.testing.assert_close(read[name], value, msg=name)

    run_refiner(layout, model=model, init_from="read", fit=dataclasses.replace(small.FIT, learning_rate=1e-2))
    after = load_bundle(layout.model("refiner")).model.state_dict()
    assert reader_in(layout.root / "read")
    for name, value in reader_in(layout.root / "read").items():
        torch.testing.assert_close(after[name], value, msg=name)
    assert not torch.equal(after["network.out_proj.weight"], read["network.out_proj.weight"])


def test_a_refiner_goes_on_with_one_more_level(layout: Layout) -> None:
    fit = dataclasses.replace(small.FIT, steps=10, learning_rate=1e-2, validate_every=10, checkpoint_every=10)
    before = run_refiner(layout, fit=fit).metrics
    shutil.copytree(layout.model("refiner"), layout.root / "earlier")
    model = dataclasses.replace(REFINER.model, widths=(*REFINER.model.widths, 16))
    unmoved = dataclasses.replace(fit, learning_rate=1e-9)
    after = run_refiner(layout, model=model, init_from="earlier", fit=unmoved).metrics
    assert before["val_l1/vqvae"] < before["val_unrefined/vqvae"]
    assert after["val_l1"] == pytest.approx(before["val_l1"], rel=1e-4)


def test_steps_of_a_reader_that_is_not_there_are_refused(layout: Layout) -> None:
    with pytest.raises(TimbreflowError, match="note_steps is 5, but"):
        run_refiner(layout, note_steps=5)


def test_a_refiner_of_other_bands_or_behind_a_model_without_notes_is_refused(layout: Layout) -> None:
    with pytest.raises(TimbreflowError, match=r"train_refiner.model.fmax is 7000.0 and the features have 8000.0"):
        run_refiner(layout, model=dataclasses.replace(REFINER.model, fmax=7000.0))
    run_paper(layout)
    with pytest.raises(TimbreflowError, match="is no transfer model of these features"):
        run_refiner(layout, models=("vqvae-2021",))
    with pytest.raises(TimbreflowError, match="models is empty"):
        run_refiner(layout, models=())
