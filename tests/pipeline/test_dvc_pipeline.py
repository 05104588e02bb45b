"""The pipeline as people run it, on tiny parameters: a second run does nothing, one change reruns little."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator

import pytest
from checkout import Checkout

STAGES = [
    "collect_midi",
    "render_triples",
    "extract_mels",
    "validate_data",
    "train_timbre_metric",
    "train_vqvae@paper",
    "train_vqvae@base",
    "train_glow",
    "train_refiner",
    "train_vocoder",
    "evaluate",
    "report",
    "register_models",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("dvc") / "checkout")
    started = checkout.run("timbreflow", "ui")
    assert started.returncode == 0, started.stdout
    yield checkout
    checkout.run("timbreflow", "stop")


def test_the_first_run_runs_every_stage_once_and_the_second_none(checkout: Checkout) -> None:
    assert checkout.reproduce() == STAGES
    assert checkout.reproduce() == []
    status = checkout.run("dvc", "status")
    assert "up to date" in status.stdout


def test_every_stage_is_a_finished_flow_run_with_artifacts(checkout: Checkout) -> None:
    runs = checkout.flow_runs()
    assert sorted(run["name"].replace("-", "@") for run in runs) == sorted(STAGES)
    assert {run["state_type"] for run in runs} == {"COMPLETED"}


def test_runs_of_trainings_tell_the_precision_that_auto_chose(checkout: Checkout) -> None:
    with sqlite3.connect(checkout.root / ".mlflow" / "mlflow.db") as store:
        taken = [value for (value,) in store.execute("SELECT value FROM params WHERE key = 'precision'")]
    assert len(taken) == 6 and set(taken) <= {"float32", "bfloat16"}


def test_editing_one_parameter_reruns_exactly_what_depends_on_it(checkout: Checkout) -> None:
    values = checkout.values()
    values["register_models"]["gate"]["criteria"]["lsd"]["limit"] = 900.0
    checkout.write(values)
    assert checkout.reproduce() == ["register_models"]
    values["train_glow"]["noise"] = 0.2
    checkout.write(values)
    assert checkout.reproduce() == ["train_glow", "train_refiner", "evaluate", "report", "register_models"]


def test_another_colour_in_the_template_makes_the_report_alone_again(checkout: Checkout) -> None:
    template = checkout.root / "src" / "timbreflow" / "reporting" / "templates" / "report.html"
    template.write_text(template.read_text(encoding="utf-8").replace("--accent: #6b2fa0", "--accent: #123456"))
    assert checkout.reproduce() == ["report"]
    assert "#123456" in (checkout.root / "results" / "report" / "report.html").read_text(encoding="utf-8")


def test_a_wrong_parameter_stops_with_one_sentence_and_keeps_the_models(checkout: Checkout) -> None:
    values = checkout.values()
    values["train_glow"]["noize"] = 0.1
    good = (checkout.root / "params.yaml").read_text()
    checkout.write(values)
    weights = checkout.root / "data" / "models" / "vqvae" / "weights.safetensors"
    before = weights.read_bytes()
    result = checkout.run("dvc", "repro")
    (checkout.root / "params.yaml").write_text(good)
    assert result.returncode != 0
    assert "error: " in result.stdout
    assert "train_glow.noize is not a known parameter" in result.stdout
    assert "Traceback" not in result.stdout
    assert weights.read_bytes() == before
    # DVC empties a stage's outputs before it runs; the Glow comes back from its cache.
    checkout.reproduce()


def test_without_a_server_a_stage_still_runs_and_is_seen_later(checkout: Checkout) -> None:
    checkout.reproduce()
    before = len(checkout.flow_runs())
    checkout.run("timbreflow", "stop")
    began = time.monotonic()
    assert checkout.reproduce("--force", "--single-item", "register_models") == ["register_models"]
    assert time.monotonic() - began < 60, "what is left to send must not wait for a server that has gone"
    assert checkout.run("timbreflow", "ui").returncode == 0
    assert len(checkout.flow_runs()) == before + 1


def test_the_registry_is_filled_again_when_it_is_lost(checkout: Checkout) -> None:
    checkout.run("timbreflow", "stop")
    shutil.rmtree(checkout.root / ".mlflow")
    first = checkout.run("timbreflow", "register")
    again = checkout.run("timbreflow", "register")
    assert "timbreflow-glow version 1 registered" in first.stdout, first.stdout
    assert "was registered already" in again.stdout
    assert checkout.run("timbreflow", "ui").returncode == 0


def test_the_pipeline_flow_is_the_parent_of_what_it_runs(checkout: Checkout) -> None:
    values = checkout.values()
    values["register_models"]["gate"]["criteria"]["lsd"]["limit"] = 800.0
    checkout.write(values)
    result = checkout.run("python", "-m", "flows.pipeline")
    assert result.returncode == 0, result.stdout[-3000:]
    runs = checkout.flow_runs()
    parent = next(run for run in runs if run["name"] == "pipeline")
    children = checkout.ask("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [parent["id"]]}}})
    assert [run["name"] for run in children] == ["register_models"]


def test_an_experiment_runs_in_a_copy_and_is_seen_in_the_checkouts_servers(checkout: Checkout) -> None:
    commit(checkout)
    before = len(checkout.flow_runs())
    result = checkout.run("dvc", "exp", "run", "--temp", "-S", "register_models.gate.criteria.lsd.limit=700")
    assert result.returncode == 0, result.stdout[-5000:]
    assert len(checkout.flow_runs()) == before + 1
    shown = checkout.run("dvc", "exp", "show", "--csv", "--only-changed").stdout
    assert len(shown.splitlines()[0].split(",")) < 25, shown
    assert len(checkout.run("dvc", "metrics", "show").stdout.splitlines()[0]) < 200


def test_a_version_of_the_registry_is_made_again_from_its_commit(checkout: Checkout) -> None:
    commit(checkout)
    result = checkout.run("timbreflow", "reproduce", "models:/timbreflow-glow/1", "--run")
    assert result.returncode == 0, result.stdout[-5000:]
    assert "timbreflow-glow version 1 was made again: sha256" in result.stdout
    assert "step" in result.stdout.partition("Running stage 'train_glow'")[2], "it was not trained"


def commit(checkout: Checkout) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (checkout.root / ".gitignore").write_text(
        ".dvc/tmp\n.dvc/cache\n/data\n/.venv\n/.scratch\n/.run\n/.prefect\n/.mlflow\n"
    )
    for command in (["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *command], cwd=checkout.root, check=True)
