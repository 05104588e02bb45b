"""Stage register_models with real bundles and a real registry."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.inference.tiny import FEATURES, save_bundles
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import CriterionConfig, GateConfig, RegisterConfig
from timbreflow.inference.vocoding import identity
from timbreflow.models.bundle import ModelBundle, load_bundle, save_bundle, weights_sha256
from timbreflow.models.catalogue import Candidate, KnownModel
from timbreflow.models.timbre_metric import TripletConfig, TripletNetwork
from timbreflow.models.vqvae import VQVAE
from timbreflow.stages.layout import Layout
from timbreflow.stages.register_models import candidates, released_candidates, run
from timbreflow.tracking.connection import connect
from timbreflow.tracking.registry import register

CONFIG = RegisterConfig(
    gate=GateConfig(
        set="test",
        criteria={"lsd": CriterionConfig("lower", 0.02, 20.0), "timbre": CriterionConfig("lower", 0.05, 0.2)},
    )
)
METRICS: dict[str, Any] = {
    "metric_digest": "m",
    "test_digest": "t",
    "test": {
        "glow": {"lsd": 15.0, "timbre": 0.3, "pitch": 0.5},
        "vqvae": {"lsd": 14.0, "timbre": 0.1, "pitch": 0.4},
    },
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    folders = save_bundles(tmp_path / "made")
    layout.model("glow").parent.mkdir(parents=True)
    folders["glow"].rename(layout.model("glow"))
    folders["vqvae"].rename(layout.model("vqvae"))
    save_bundle(layout.model("timbre_metric"), timbre_metric(0))
    write(layout, "evaluate", "metrics.json", METRICS | {"weights": weights(layout)})
    write(layout, "validate_data", "passed.json", {"suites": ["manifest"], "digest": "d" * 64})
    return layout


def timbre_metric(seed: int) -> ModelBundle:
    torch.manual_seed(seed)
    return ModelBundle("triplet", TripletNetwork(TripletConfig(12, 16, (4, 4, 4, 2))), FEATURES, None)


def weights(layout: Layout) -> dict[str, dict[str, str]]:
    """As evaluate would write them."""
    found = {name: identity(layout.model(name), layout.model("vocoder")) for name in ("glow", "vqvae")}
    return found | {"timbre_metric": {"weights_sha256": weights_sha256(layout.model("timbre_metric"))}}


def write(layout: Layout, stage: str, name: str, value: object) -> None:
    layout.results(stage).mkdir(parents=True, exist_ok=True)
    (layout.results(stage) / name).write_text(json.dumps(value))


def test_both_models_become_challengers_and_the_results_repeat(layout: Layout) -> None:
    registered = partial(register, root=layout.root)
    report = run(CONFIG, layout=layout, register=registered)
    path = layout.results("register_models") / "metrics.json"
    first = path.read_bytes()
    assert json.loads(first) == {
        "timbreflow-glow": {"lsd": 15.0, "timbre": 0.3, "limits_passed": 1, "limits": 2},
        "timbreflow-vqvae": {"lsd": 14.0, "timbre": 0.1, "limits_passed": 2, "limits": 2},
    }
    assert report.metrics["timbreflow-glow/limits_passed"] == 1.0
    assert len(report.tables["gate"]) == 4
    assert "timbreflow-vqvae version 1 registered" in report.summary
    for name in ("timbreflow-vqvae", "timbreflow-glow"):
        version = connect(layout.root).get_model_version_by_alias(name, "challenger")
        assert version.tags["data_digest"] == "d" * 64

    again = run(CONFIG, layout=layout, register=registered)
    assert again.summary.count("was registered already") == 2
    assert path.read_bytes() == first


def test_candidates_hold_what_the_gate_compares(layout: Layout) -> None:
    found = {candidate.model.registered: candidate for candidate in candidates(CONFIG, layout=layout)}
    assert found["timbreflow-vqvae"].evaluation == {
        "metric_digest": "m",
        "test_digest": "t",
        "test": {"vqvae": METRICS["test"]["vqvae"]},
        "weights": {"vqvae": weights(layout)["vqvae"]},
    }


def forbidden(candidate: Candidate) -> str:
    raise AssertionError(f"registered {candidate.model.name} before all was checked")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": {"glow": METRICS["test"]["glow"]}}, "vqvae"),
        ({"test": {}, "test_seen": METRICS["test"]}, "vqvae"),
        ({"metric_digest": None}, "metric_digest"),
    ],
)
def test_an_evaluation_that_lacks_something_is_refused(layout: Layout, change: dict[str, Any], message: str) -> None:
    write(layout, "evaluate", "metrics.json", METRICS | change)
    with pytest.raises(TimbreflowError, match=f"{message}.*dvc repro evaluate"):
        run(CONFIG, layout=layout, register=forbidden)
    assert not layout.results("register_models").exists()


def test_figures_of_another_timbre_metric_are_refused(layout: Layout) -> None:
    save_bundle(layout.model("timbre_metric"), timbre_metric(1))
    with pytest.raises(TimbreflowError, match=r"timbre_metric does not hold the weights.*dvc repro evaluate"):
        run(CONFIG, layout=layout, register=forbidden)


def test_noise_in_place_of_the_evaluated_weights_is_refused(layout: Layout) -> None:
    model = layout.model("vqvae")
    save_bundle(model, replace(load_bundle(model), model=VQVAE(load_bundle(model).model.config)))
    with pytest.raises(TimbreflowError, match=r"vqvae does not hold the weights"):
        run(CONFIG, layout=layout, register=partial(register, root=layout.root))


def test_a_missing_model_or_evaluation_is_refused(layout: Layout) -> None:
    (layout.model("glow") / "weights.safetensors").unlink()
    with pytest.raises(TimbreflowError, match="dvc repro train_glow"):
        run(CONFIG, layout=layout, register=forbidden)
    (layout.results("evaluate") / "metrics.json").unlink()
    with pytest.raises(TimbreflowError, match="metrics.json is missing"):
        run(CONFIG, layout=layout, register=forbidden)


def test_released_models_are_registered_with_figures_of_their_own(layout: Layout) -> None:
    with pytest.raises(TimbreflowError, match="Nothing is released"):
        released_candidates(CONFIG, lambda model, folder: METRICS, layout=layout)
    released = layout.root / "released" / "glow"
    released.parent.mkdir()
    hashes = weights(layout)
    layout.model("glow").rename(released)
    write(layout, "train_glow", "run.json", {"run_id": "of another training"})
    asked = []

    def evaluate(model: KnownModel, folder: Path) -> dict[str, Any]:
        asked.append((model.name, folder))
        return METRICS | {"weights": hashes}

    (found,) = released_candidates(CONFIG, evaluate, layout=layout)
    assert asked == [("glow", released)]
    assert found.evaluation == {
        "metric_digest": "m",
        "test_digest": "t",
        "test": {"glow": METRICS["test"]["glow"]},
        "weights": {"glow": hashes["glow"]},
    }
    assert "is the challenger" in register(found, root=layout.root)
    version = connect(layout.root).get_model_version_by_alias("timbreflow-glow", "challenger")
    assert version.tags["released"] == "yes"
    assert version.tags["run_id"] == ""
