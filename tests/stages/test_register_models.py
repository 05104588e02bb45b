"""Stage register_models with real bundles and a real registry."""

import json
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.inference.tiny import FEATURES, save_bundles
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import Candidate
from timbreflow.evaluation.gate_config import CriterionConfig, GateConfig, RegisterConfig
from timbreflow.inference.vocoding import identity
from timbreflow.models.bundle import ModelBundle, load_bundle, save_bundle, weights_sha256
from timbreflow.models.catalogue import KnownModel
from timbreflow.models.timbre_metric import TripletConfig, TripletNetwork
from timbreflow.models.vqvae import VQVAE
from timbreflow.stages.layout import Layout
from timbreflow.stages.register_models import candidates, released_candidates, run
from timbreflow.tracking.connection import connect
from timbreflow.tracking.registry import register
from timbreflow.tracking.reproduction import origin_of, recipe

CONFIG = RegisterConfig(
    gate=GateConfig(
        set="test",
        min_triples=2,
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
    table().to_parquet(layout.results("evaluate") / "per_clip.parquet")
    write(layout, "validate_data", "passed.json", {"suites": ["manifest"], "digest": "d" * 64})
    return layout


def table() -> pd.DataFrame:
    """Clips that have the means of `METRICS`."""
    rows = []
    for system, figures in METRICS["test"].items():
        for number, change in enumerate((0.5, 1.5)):
            values = {name: value * change for name, value in figures.items()}
            rows.append({"set": "test", "triple_id": f"test-{number}", "system": system, **values})
    return pd.DataFrame(rows)


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
    own = found["timbreflow-vqvae"].measured
    assert own.digests == {"metric_digest": "m", "test_digest": "t"}
    assert own.weights == weights(layout)["vqvae"]
    assert own.clips["lsd"].tolist() == [7.0, 21.0]


def test_clips_of_another_evaluation_than_metrics_json_are_refused(layout: Layout) -> None:
    other = table()
    other.loc[other["system"] == "vqvae", "lsd"] *= 1.01
    other.to_parquet(layout.results("evaluate") / "per_clip.parquet")
    with pytest.raises(TimbreflowError, match=r"per_clip\.parquet differ in lsd of vqvae.*dvc repro evaluate"):
        run(CONFIG, layout=layout, register=forbidden)


def forbidden(candidate: Candidate) -> str:
    raise AssertionError(f"registered {candidate.model.name} before all was checked")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": {"glow": METRICS["test"]["glow"]}}, "vqvae"),
        ({"test": {}, "test_seen": METRICS["test"]}, "vqvae"),
        ({"weights": {}}, "vqvae"),
        ({"metric_digest": None}, "metric_digest"),
    ],
)
def test_an_evaluation_that_lacks_something_is_refused(layout: Layout, change: dict[str, Any], message: str) -> None:
    write(layout, "evaluate", "metrics.json", METRICS | {"weights": weights(layout)} | change)
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


def test_released_models_are_registered_with_figures_of_their_own_and_their_own_record(layout: Layout) -> None:
    with pytest.raises(TimbreflowError, match="Nothing is released"):
        released_candidates(lambda model, folder: (METRICS, table()), layout=layout)
    released = layout.root / "released" / "glow"
    released.parent.mkdir()
    bundle = load_bundle(layout.model("glow"))
    record = {"steps": 1400, "data": {"digest": "f" * 64}, "release": {"cost": "4 h of one core"}}
    save_bundle(released, replace(bundle, training={**bundle.training, **record}))
    hashes = {"glow": identity(released, layout.root / "no vocoder")}
    write(layout, "train_glow", "run.json", {"run_id": "of another training"})
    (layout.root / "dvc.lock").write_text("stages:\n  train_glow: {md5: of another training}\n")
    git = ["git", "-C", str(layout.root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "released"], check=True)
    for message in ("weights", "later"):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", message], check=True)
    first, second = subprocess.run([*git, "log", "--format=%H"], capture_output=True, text=True).stdout.split()[::-1]
    asked = []

    def evaluate(model: KnownModel, folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
        asked.append((model.name, folder))
        return METRICS | {"weights": hashes}, table()

    (found,) = released_candidates(evaluate, layout=layout)
    assert asked == [("glow", released)]
    assert "is the challenger" in register(found, root=layout.root)
    version = connect(layout.root).get_model_version_by_alias("timbreflow-glow", "challenger")
    assert version.tags["released"] == "yes"
    assert version.tags["released_commit"] == first != second
    assert version.tags["data_digest"] == "f" * 64
    assert version.tags["training_steps"] == "1400"
    assert version.tags["training_cost"] == "4 h of one core"
    # What this checkout is and trained did not make them.
    assert {"git_commit", "git_dirty", "dvc_lock", "run_id"} & set(version.tags) == set()
    told = origin_of("models:/timbreflow-glow/1", root=layout.root)
    assert f"{first} (put the weights into git)" in told.text()
    with pytest.raises(TimbreflowError, match="was released.*its training record"):
        recipe(told, root=layout.root)
