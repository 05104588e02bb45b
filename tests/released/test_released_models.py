"""What the released weights must show, on the frozen test set `artificial`: unseen pieces, a font never trained on.

`make test-released`. The sound of the test set is rendered first, where it is not there; its font is fetched then. What
a choice of weights may look at is asked on validation triples, which are rendered from data/notes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.released.checks import (
    closeness,
    inverse_error,
    log_det_error,
    pooled,
    pooled_latents,
    probe_accuracy,
    style_cost,
    style_swap,
)
from tests.sharded import run_all
from timbreflow.audio.features import FeatureExtractor
from timbreflow.config import load_params
from timbreflow.data.manifest import read_manifest
from timbreflow.evaluation.clips import EvaluationClips
from timbreflow.inference.style import DEFAULT_NOISE, fit_style
from timbreflow.inference.synthesis import DEFAULT_TEMPERATURE, DecodeRequest, Synthesizer
from timbreflow.inference.vocoding import open_inverter
from timbreflow.models.bundle import ModelBundle, load_bundle
from timbreflow.models.glow.model import Glow
from timbreflow.rendering.config import TimbreConfig, TripleCounts
from timbreflow.stages import render_triples
from timbreflow.stages.layout import Layout
from timbreflow.testsets.build import build

pytestmark = [pytest.mark.released, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
SET = "artificial"
MODELS = ("vqvae", "glow")
RATE = 16000
SEEDS = 10
"""Noises and foldings over which the probe of z is averaged: one alone decides by chance."""
HEARD = 24
"""Triples that are made audible; probes and likelihoods take all."""
BATCH = 8
PROGRAMS_PER_FAMILY = 8


@dataclass(frozen=True)
class Exam:
    """Sounds [n, N] by role, rolls [n, 128, T] of content and target, and what the manifest knows of the clips."""

    sounds: dict[str, NDArray[np.float32]]
    rolls: NDArray[np.float64]
    families: dict[str, NDArray[np.int64]]
    pieces: NDArray[np.object_]

    def spread(self, count: int) -> NDArray[np.int64]:
        """Numbers of `count` triples, spread evenly over the set, which is sorted by its bins."""
        return np.linspace(0, len(self.pieces) - 1, count).round().astype(int)


@pytest.fixture(scope="module")
def exam() -> Exam:
    layout, folder = Layout(ROOT), ROOT / "data" / "testsets" / SET
    if not (folder / "manifest.parquet").is_file():
        build([SET], layout=layout, released=ROOT / "released" / "testsets", out=folder.parent, say=print)
    return exam_of(folder, SET)


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Exam:
    """As many validation triples as `artificial` has, of one plain preset each: no weights were fitted to them."""
    if not (ROOT / "data" / "notes").is_dir():
        pytest.skip("data/notes is missing; run `dvc repro collect_midi`")
    render = load_params(ROOT / "params.yaml").render_triples
    config = replace(
        render,
        seed=render.seed + 1,
        triples=TripleCounts(train=1, validation=240, test=0, test_seen=0),
        timbre=TimbreConfig(0.0, 1, 0.0, 0.0, render.timbre.effect_counts),
    )
    layout = Layout(tmp_path_factory.mktemp("validation"))
    layout.notes.parent.mkdir()
    layout.notes.symlink_to(ROOT / "data" / "notes")
    run_all(render_triples, config, layout=layout)
    return exam_of(layout.audio, "validation")


def exam_of(folder: Path, split: str) -> Exam:
    """The exam of a split of clips."""
    clips = EvaluationClips(folder, split, sample_rate=RATE, max_triples=0)
    batches = list(clips.batches(BATCH))
    sounds = {
        role: np.concatenate([getattr(batch, role) for batch in batches]) for role in ("content", "style", "target")
    }
    n_frames = sounds["target"].shape[-1] // 500
    rolls = np.stack([notes.piano_roll(n_frames, 500 / RATE) for batch in batches for notes in batch.notes])
    rows = read_manifest(folder)
    rows = rows[rows["split"] == split]
    by_role = {role: rows[rows["role"] == role].set_index("triple_id").loc[clips.triple_ids] for role in sounds}
    return Exam(
        sounds,
        rolls.astype(np.float64),
        {role: own["program"].to_numpy(np.int64) // PROGRAMS_PER_FAMILY for role, own in by_role.items()},
        by_role["content"]["piece_id"].to_numpy(object),
    )


@dataclass(frozen=True)
class Subject:
    """A released model with the exam in its features."""

    name: str
    bundle: ModelBundle
    features: dict[str, Tensor]

    @property
    def model(self) -> Any:
        return self.bundle.model

    @property
    def noise(self) -> float:
        return float(self.bundle.training.get("section", {}).get("noise", DEFAULT_NOISE))

    @torch.inference_mode()
    def sound(self, chosen: NDArray[np.int64], styles: NDArray[np.int64]) -> NDArray[np.float32]:
        """Contents `chosen` under the styles of other triples, as sound."""
        invert = open_inverter(self.bundle.features, ROOT / "released" / "vocoder")
        noise = torch.Generator().manual_seed(0)
        request = DecodeRequest(self.features["style"][styles], DEFAULT_TEMPERATURE, 0, noise)
        return np.asarray(Synthesizer(self.bundle, invert)(self.features["content"][chosen], request), np.float32)

    def batches(self, function: Callable[..., Any], *roles: str) -> NDArray[np.float64]:
        """Results of a function of some roles' features, batch by batch."""
        count = len(self.features["content"])
        with torch.no_grad():
            parts = [
                function(*(self.features[role][start : start + BATCH] for role in roles))
                for start in range(0, count, BATCH)
            ]
        return np.concatenate(parts)


def subject_of(name: str, exam: Exam) -> Subject:
    bundle = load_bundle(ROOT / "released" / name)
    assert bundle.normalizer is not None
    extract = FeatureExtractor(bundle.features)
    with torch.no_grad():
        features = {
            role: torch.cat(
                [bundle.normalizer.normalize(extract(part)) for part in torch.from_numpy(sound).split(BATCH)]
            )
            for role, sound in exam.sounds.items()
        }
    return Subject(name, bundle, features)


@pytest.fixture(scope="module")
def subjects(exam: Exam) -> Callable[[str], Subject]:
    """The subject of a name; features of the whole set are made once for each."""
    return cache(lambda name: subject_of(name, exam))


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest, subjects: Callable[[str], Subject]) -> Subject:
    return subjects(request.param)


@pytest.fixture(scope="module")
def flow(subjects: Callable[[str], Subject]) -> Subject:
    return subjects("glow")


def test_another_style_moves_the_timbre_and_leaves_the_notes(subject: Subject, exam: Exam) -> None:
    chosen = exam.spread(HEARD)
    other = np.roll(chosen, 1)
    swap = style_swap(subject.sound(chosen, chosen), subject.sound(chosen, other), exam.sounds["style"][other])
    print(subject.name, swap)
    assert swap.moved >= 0.75
    assert swap.distance_after < 0.75 * swap.distance_before
    assert swap.notes_kept > swap.notes_of_others + 0.15


def test_copies_are_beaten_where_they_are_bad_and_lsd_beats_both(subject: Subject, exam: Exam) -> None:
    chosen = exam.spread(HEARD)
    target = exam.sounds["target"][chosen]
    made = closeness(subject.sound(chosen, chosen), target)
    content, style = (closeness(exam.sounds[role][chosen], target) for role in ("content", "style"))
    print(subject.name, {"made": made, "content": content, "style": style})
    assert made.timbre < content.timbre
    assert made.notes > style.notes
    assert made.lsd < min(content.lsd, style.lsd)


def test_the_content_code_tells_little_of_the_timbre(subject: Subject, exam: Exam) -> None:
    """Registers alone tell something, which is what the piano roll is for; the log-mel is the upper end."""
    roles = ("content", "target")
    labels = np.concatenate([exam.families[role] for role in roles])
    pieces = np.concatenate([exam.pieces] * 2)
    roll = pooled(torch.from_numpy(exam.rolls))
    found = {
        "roll": np.concatenate([roll, roll]),
        "code": np.concatenate(
            [subject.batches(lambda x: pooled(subject.model.content_path(x).code), role) for role in roles]
        ),
        "mel": np.concatenate([subject.batches(pooled, role) for role in roles]),
    }
    told = {name: probe_accuracy(values, labels, pieces) for name, values in found.items()}
    print(subject.name, told)
    assert told["mel"] > told["roll"] + 0.1, "the probe hears no timbre where there is some: it proves nothing"
    assert told["code"] <= told["roll"] + 0.1


def test_z_tells_little_of_the_timbre(validation: Exam) -> None:
    flow = subject_of("glow", validation)
    roll, mel = pooled(torch.from_numpy(validation.rolls)), flow.batches(pooled, "target")
    told: dict[str, list[float]] = {"roll": [], "z": [], "mel": []}
    for seed in range(SEEDS):
        latents = partial(pooled_latents, flow.model, noise=flow.noise, generator=torch.Generator().manual_seed(seed))
        for name, values in (("roll", roll), ("z", flow.batches(latents, "target", "content", "style")), ("mel", mel)):
            told[name].append(probe_accuracy(values, validation.families["target"], validation.pieces, seed=seed))
    means = {name: float(np.mean(values)) for name, values in told.items()}
    passes = sum(z <= roll + 0.1 for z, roll in zip(told["z"], told["roll"], strict=True))
    print(flow.name, means, f"{passes} of {SEEDS} seeds alone would pass")
    assert means["z"] <= means["roll"] + 0.1


def test_the_flow_inverts_in_float32(flow: Subject, exam: Exam) -> None:
    chosen = exam.spread(BATCH)
    target, content, style = (flow.features[role][chosen] for role in ("target", "content", "style"))
    frames = target.shape[-1] // flow.model.flow.multiple * flow.model.flow.multiple
    assert inverse_error(flow.model, target[..., :frames], content[..., :frames], style) < 1e-4


def test_the_log_determinant_is_the_jacobians(flow: Subject) -> None:
    frames = slice(64, 64 + flow.model.flow.multiple)
    target, content = (flow.features[role][:1, :, frames] for role in ("target", "content"))
    assert log_det_error(flow.model, target, content, flow.features["style"][:1]) < 1e-8


def test_a_wrong_style_costs_bits(flow: Subject, exam: Exam) -> None:
    # A wrong style is one of another family.
    rng = np.random.default_rng(0)
    families, order = exam.families["style"], np.arange(len(exam.pieces))
    wrong = np.array([rng.choice(order[families != family]) for family in families])
    generator = torch.Generator().manual_seed(0)
    cost = np.concatenate(
        [
            style_cost(
                flow.model,
                *(flow.features[role][part] for role in ("target", "content", "style")),
                flow.features["style"][wrong[part]],
                noise=flow.noise,
                generator=generator,
            )
            for part in np.array_split(order, -(-len(order) // BATCH))
        ]
    )
    print(flow.name, {"bits a dimension": float(cost.mean()), "share": float((cost > 0).mean())})
    assert cost.mean() > 0
    assert (cost > 0).mean() > 0.5


def test_fitting_a_style_makes_its_reference_likelier(flow: Subject, exam: Exam) -> None:
    assert isinstance(flow.model, Glow)
    fits = [
        fit_style(
            flow.model,
            flow.features["style"][number : number + 1],
            steps=10,
            noise=flow.noise,
            generator=torch.Generator().manual_seed(0),
        )
        for number in exam.spread(3)
    ]
    print(flow.name, [(fit.bits_per_dim_before, fit.bits_per_dim_after) for fit in fits])
    assert all(fit.bits_per_dim_after < fit.bits_per_dim_before for fit in fits)


def test_the_released_folder_is_small_and_told_of() -> None:
    folder = ROOT / "released"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 100e6
    for name in MODELS:
        card = (folder / name / "README.md").read_text(encoding="utf-8")
        assert "Licences" in card or "licence" in card


def test_the_set_is_what_the_tables_say(exam: Exam) -> None:
    assert len(exam.pieces) >= 200
    assert pd.unique(exam.pieces).size >= 5
