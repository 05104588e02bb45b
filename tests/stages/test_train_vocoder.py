"""The vocoder's stage on a tiny data set: outputs, the verdict, repetition, refusals."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import small
from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import MANIFEST_SCHEMA, write_manifest
from timbreflow.data.mels import write_statistics
from timbreflow.data.shards import write_shard
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json
from timbreflow.inference.vocoding import VERDICT
from timbreflow.models.bundle import ModelBundle, load_bundle, weights_sha256
from timbreflow.models.vocoder import Vocoder
from timbreflow.stages import train_vocoder
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import ignore_metrics
from timbreflow.training.vocoder_config import VocoderLosses, VocoderTraining

RATE, SAMPLES = 16_000, 8_000
FIT = dataclasses.replace(small.FIT, steps=4, batch_size=2, warmup_steps=1, schedule="constant", validate_every=2)
SECTION = VocoderTraining(
    model=small.VOCODER,
    fit=FIT,
    losses=VocoderLosses(convergence=1.0, magnitude=1.0, mel=1.0, adversarial=0.0, feature_matching=0.0),
    crop_frames=8,
    noise=0.1,
    validation_crops=3,
    comparison_clips=2,
    init_from="",
)


def tone(frequency: float) -> np.ndarray:
    time = np.arange(SAMPLES) / RATE
    waves = [np.sin(2 * np.pi * frequency * n * time) / n for n in range(1, 6)]
    return np.asarray(0.08 * np.sum(waves, axis=0) * np.exp(-3 * time), dtype=np.float32)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Four clips a split, through the writers of data/."""
    layout = Layout(tmp_path)
    empty = {field.name: "" if str(field.type) == "string" else 0 for field in MANIFEST_SCHEMA}
    rows = []
    for split, base in (("train", 220.0), ("validation", 247.0)):
        shard = f"{split}/shard-00000.tar"
        clips = [(f"{split}-{n}", encode_flac(tone(base * (1 + n / 7)), RATE)) for n in range(4)]
        for entry in write_shard(layout.audio / shard, clips):
            place = {"shard": shard, "offset": entry.offset, "nbytes": entry.nbytes, "n_samples": SAMPLES}
            rows.append({**empty, "clip_id": entry.clip_id, "split": split, **place})
    write_manifest(layout.audio, rows)
    normalizer = Normalizer(mean=torch.full((24,), -2.0), std=torch.full((24,), 2.0))
    write_statistics(layout.mels, normalizer, small.MELS)
    write_json(layout.results("validate_data") / "passed.json", {"data": "1234"})
    return layout


@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_writes_weights_numbers_and_the_verdict(layout: Layout, adversarial: float) -> None:
    losses = dataclasses.replace(SECTION.losses, adversarial=adversarial, feature_matching=adversarial)
    section = dataclasses.replace(SECTION, losses=losses)
    report = train_vocoder.run(section, small.MELS, layout=layout, log=ignore_metrics, device="cpu")
    bundle = load_bundle(layout.model("vocoder"))
    assert bundle.kind == "vocoder"
    assert isinstance(bundle.model, Vocoder)
    assert bundle.features == small.MELS
    metrics = read_json(layout.results("train_vocoder") / "metrics.json")
    assert metrics == pytest.approx(report.metrics)
    # Four steps make no vocoder, and that must be found out.
    assert metrics[VERDICT] == bundle.training[VERDICT] == 0
    assert metrics["lsd_vocoder"] > metrics["lsd_griffin_lim"]
    assert {"stft_vocoder", "stft_griffin_lim", "val_loss", "val_mel/l1"} <= set(metrics)
    assert metrics["parameters"] == sum(p.numel() for p in bundle.model.parameters())
    assert bundle.training["precision"] == report.facts["precision"] == "float32"
    assert bundle.training["lsd_vocoder"] == pytest.approx(metrics["lsd_vocoder"])
    assert (layout.results("train_vocoder") / "curves.csv").read_text().startswith("step,")
    assert not list(layout.scratch("train_vocoder", "x").parent.glob("*"))
    assert "Griffin-Lim stays" in report.summary


def test_the_same_weights_again_after_a_break(layout: Layout) -> None:
    train_vocoder.run(SECTION, small.MELS, layout=layout, log=ignore_metrics, device="cpu")
    first = weights_sha256(layout.model("vocoder"))

    class Killed(Exception):
        pass

    def die(step: int, values: object) -> None:
        if step >= 4:
            raise Killed

    with pytest.raises(Killed):
        train_vocoder.run(SECTION, small.MELS, layout=layout, log=die, device="cpu")
    train_vocoder.run(SECTION, small.MELS, layout=layout, log=ignore_metrics, device="cpu")
    assert weights_sha256(layout.model("vocoder")) == first


def test_training_goes_on_from_given_weights(layout: Layout) -> None:
    train_vocoder.run(SECTION, small.MELS, layout=layout, log=ignore_metrics, device="cpu")
    earlier = layout.root / "earlier"
    shutil.copytree(layout.model("vocoder"), earlier)
    section = dataclasses.replace(SECTION, init_from="earlier", fit=dataclasses.replace(FIT, learning_rate=1e-9))
    train_vocoder.run(section, small.MELS, layout=layout, log=ignore_metrics, device="cpu")
    first, again = load_bundle(earlier), load_bundle(layout.model("vocoder"))
    assert again.training["begun"] == weights_sha256(earlier)
    for (key, old), new in zip(first.model.named_parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(old, new, msg=key, atol=1e-5, rtol=1e-4)


class Remembered:
    """An inversion that knows the answers: for telling what the comparison does with a vocoder that is good."""

    def __init__(self, clips: list[np.ndarray], error: float) -> None:
        self.answers = iter(clips)
        self.error = error

    def __call__(self, features: Tensor, *, seed: int = 0) -> Tensor:
        clip = torch.from_numpy(next(self.answers))[None]
        return clip + self.error * torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("error", "verdict"), [(1e-5, 1), (0.5, 0)])
def test_the_verdict_follows_the_sound(monkeypatch: pytest.MonkeyPatch, error: float, verdict: int) -> None:
    clips = [tone(220.0), tone(330.0)]
    monkeypatch.setattr(train_vocoder, "VocoderInverter", lambda bundle: Remembered(clips, error))
    bundle = ModelBundle("vocoder", Vocoder(SECTION.model), small.MELS, None)
    assert train_vocoder.better_than_griffin_lim(bundle, clips)[VERDICT] == verdict


def test_a_better_figure_alone_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [tone(220.0)]
    monkeypatch.setattr(train_vocoder, "VocoderInverter", lambda bundle: Remembered(clips, 1e-5))
    # The vocoder is called first, and here a later call is the worse one only in LSD.
    worse = iter([5.0, 4.0])
    monkeypatch.setitem(train_vocoder.FIGURES, "lsd", lambda made, true: next(worse))
    bundle = ModelBundle("vocoder", Vocoder(SECTION.model), small.MELS, None)
    figures = train_vocoder.better_than_griffin_lim(bundle, clips)
    assert figures["stft_vocoder"] < figures["stft_griffin_lim"]
    assert figures[VERDICT] == 0


def test_refusals(layout: Layout) -> None:
    def run(section: VocoderTraining = SECTION, features: FeatureConfig = small.MELS) -> None:
        train_vocoder.run(section, features, layout=layout, log=ignore_metrics, device="cpu")

    with pytest.raises(TimbreflowError, match="other audio settings"):
        run(features=dataclasses.replace(small.MELS, floor=0.02))
    wrong = dataclasses.replace(SECTION.model, n_features=25)
    with pytest.raises(TimbreflowError, match="n_features is 25"):
        run(dataclasses.replace(SECTION, model=wrong))
    bundle = ModelBundle("vocoder", Vocoder(SECTION.model), small.MELS, None)
    with pytest.raises(TimbreflowError, match="No validation clip"):
        train_vocoder.better_than_griffin_lim(bundle, [])
    (layout.results("validate_data") / "passed.json").unlink()
    with pytest.raises(TimbreflowError, match="has not passed validation"):
        run()
    with pytest.raises(TimbreflowError, match="noise"):
        dataclasses.replace(SECTION, noise=-1.0)
    with pytest.raises(TimbreflowError, match="crop_frames"):
        dataclasses.replace(SECTION, crop_frames=0)
    with pytest.raises(TimbreflowError, match="precision is float64"):
        dataclasses.replace(SECTION, fit=dataclasses.replace(SECTION.fit, precision="float64"))
