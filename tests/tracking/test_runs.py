"""Runs in a real sqlite store."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from timbreflow.errors import TimbreflowError
from timbreflow.processes import process_tag
from timbreflow.tracking import runs
from timbreflow.tracking.connection import EXPERIMENT, clear_errors, connect, has_store
from timbreflow.tracking.lineage import commit_of_lock, lineage, lock_digest
from timbreflow.tracking.runs import flatten, open_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: making its tables takes seconds."""
    return tmp_path_factory.mktemp("checkout")


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_parameters_get_the_dotted_names_of_params_yaml() -> None:
    fonts = [{"width": 1}, {"width": 2}]
    section = {"model": {"width": 8}, "rates": [0.5, 1e-4], "fonts": fonts, "name": "base", "limit": None}
    assert flatten({"train_vqvae": section}) == {
        "train_vqvae.model.width": "8",
        "train_vqvae.rates": "[0.5, 0.0001]",
        "train_vqvae.fonts.0.width": "1",
        "train_vqvae.fonts.1.width": "2",
        "train_vqvae.name": "base",
        "train_vqvae.limit": "null",
    }


def test_a_run_holds_parameters_curves_artifacts_datasets_and_tags(root: Path, tmp_path: Path) -> None:
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  evaluate: {cmd: x}\n")
    (tmp_path / "curve.txt").write_text("x")
    params = {"train_glow": {f"p{i}": i for i in range(250)}}
    with open_run("train_glow", params, root=root, tags={"pipeline": "7"}) as run:
        for step in range(1000):
            run.log(step, {"loss": 1.0 / (step + 1), "glow/bits_per_dim": 2.0})
        run.artifact(tmp_path / "curve.txt")
        run.dataset("data/audio data/mels", "d" * 64)
        run.describe("Trained for *1000* steps.")
        run.write_run_json(tmp_path / "run.json")
    stored = connect(root).get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params["train_glow.p249"] == "249"
    assert len(stored.data.params) == 250
    assert len(connect(root).get_metric_history(run.run_id, "loss")) == 1000
    assert stored.data.metrics["loss"] == pytest.approx(0.001)
    assert stored.data.tags["pipeline"] == "7"
    assert len(stored.data.tags["dvc_lock"]) == 32
    assert stored.inputs is not None
    (used,) = stored.inputs.dataset_inputs
    assert used.dataset.name == "data/audio data/mels"
    source = json.loads(used.dataset.source)
    assert source["paths"] == ["data/audio", "data/mels"]
    assert source["digest"] == stored.data.tags["data_digest"] == "d" * 64
    assert source["pull"] == "dvc pull data/audio data/mels"
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert stored.data.tags["mlflow.note.content"] == "Trained for *1000* steps."
    assert [file.path for file in connect(root).list_artifacts(run.run_id)] == ["curve.txt"]
    assert stored.info.artifact_uri.startswith((root / ".mlflow" / "artifacts").as_uri())
    assert json.loads((tmp_path / "run.json").read_text()) == {"run_id": run.run_id, "experiment": "timbreflow"}


def test_a_run_names_the_experiment_of_dvc(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC gives the stages of `dvc exp run` its name, and no other stage."""
    ids = []
    for name in (None, "puffy-daks"):
        if name:
            monkeypatch.setenv("DVC_EXP_NAME", name)
        with open_run("train_glow", {}, root=root) as run:
            ids.append(run.run_id)
    found = connect(root).search_runs(["1"], "tags.`dvc.experiment` = 'puffy-daks'")
    assert [run.info.run_id for run in found] == ids[1:]
    # A training that was killed and goes on in an experiment is one of its runs.
    monkeypatch.delenv("DVC_EXP_NAME")
    dead = left_open(root, tmp_path)
    monkeypatch.setenv("DVC_EXP_NAME", "lit-goat")
    with open_run("train_glow", {}, root=root) as run:
        run.resume(tmp_path)
    assert connect(root).get_run(dead).data.tags["dvc.experiment"] == "lit-goat"


def test_logging_is_batched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    genuine = MlflowClient.log_batch

    def counting(self: MlflowClient, run_id: str, **kwargs: Any) -> object:
        calls.append(1)
        return genuine(self, run_id, **kwargs)

    with open_run("evaluate", {"a": 1}, root=root) as run:
        monkeypatch.setattr(MlflowClient, "log_batch", counting)
        began = time.monotonic()
        for step in range(600):
            run.log(step, {"a": 1.0, "b": 2.0, "c": float("nan")})
        took = time.monotonic() - began
    # 1,800 values: two full batches while it runs, and nothing else unless seconds pass.
    assert len(calls) <= 3 + took / runs.FLUSH_SECONDS


def test_a_store_that_fails_for_a_while_loses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(self: MlflowClient, run_id: str, **kwargs: Any) -> None:
        raise MlflowException("database is locked")

    monkeypatch.setattr(runs, "FLUSH_SECONDS", 0.0)
    with open_run("train_glow", {}, root=root) as run:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", locked)
            run.log(1, {"loss": 5.0})
        run.log(2, {"loss": 4.0})
    assert [point.value for point in connect(root).get_metric_history(run.run_id, "loss")] == [5.0, 4.0]


@pytest.mark.parametrize(("error", "status"), [(ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_stage_that_dies_ends_its_run(root: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), open_run("train_glow", {}, root=root) as run:
        run.log(1, {"loss": 3.0})
        raise error
    stored = connect(root).get_run(run.run_id)
    assert (stored.info.status, stored.data.metrics) == (status, {"loss": 3.0})


def left_open(root: Path, checkpoints: Path) -> str:
    """Id of a run that looks as a process left it which was killed at step 5, with a checkpoint at step 4."""
    (checkpoints / "step-00000004").mkdir(parents=True)
    run = runs._start("train_glow", {}, root, {"prefect_flow_run": "first"})
    run.resume(checkpoints)
    for step in range(1, 6):
        run.log(step, {"loss": float(step)})
    run.flush()
    run.unwatch()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = process_tag()
    run._client.set_tag(run.run_id, runs.PROCESS, mine.replace(f":{os.getpid()}:", f":{gone.pid}:"))
    return run.run_id


def test_the_run_of_a_killed_process_is_killed_at_the_next_start(root: Path, tmp_path: Path) -> None:
    dead = left_open(root, tmp_path)
    with open_run("evaluate", {}, root=root) as living, open_run("report", {}, root=root):
        assert connect(root).get_run(dead).info.status == "KILLED"
        assert connect(root).get_run(living.run_id).info.status == "RUNNING"


def test_a_resumed_training_goes_on_in_its_run_with_the_first_steps(root: Path, tmp_path: Path) -> None:
    dead = left_open(root, tmp_path)
    with open_run("train_glow", {}, root=root, tags={"prefect_flow_run": "second"}) as run:
        fresh = run.run_id
        run.resume(tmp_path)
        for step in (5, 6):
            run.log(step, {"loss": float(step)})
    client = connect(root)
    stored = client.get_run(dead)
    assert (run.run_id, stored.info.status) == (dead, "FINISHED")
    assert stored.data.tags["prefect_flow_run"] == "second"
    assert {point.step for point in client.get_metric_history(dead, "loss")} == {1, 2, 3, 4, 5, 6}
    assert client.get_run(fresh).info.lifecycle_stage == "deleted"


def test_a_run_has_system_metrics_which_go_on_where_a_resumed_training_does(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    client, name = connect(root), "system/cpu_utilization_percentage"

    def measured_in(run_id: str) -> list[int]:
        deadline = time.monotonic() + 20
        before = len(client.get_metric_history(run_id, name))
        while len(points := client.get_metric_history(run_id, name)) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        return [point.step for point in points]

    dead = left_open(root, tmp_path)
    for _ in range(2):
        with open_run("train_glow", {}, root=root) as run:
            run.resume(tmp_path)
            assert run.run_id == dead
            steps = measured_in(dead)
        assert steps and len(set(steps)) == len(steps), "a resumed training goes on with the next step"


def test_without_checkpoints_or_its_run_a_training_is_a_new_run(root: Path, tmp_path: Path) -> None:
    dead = left_open(root, tmp_path / "a")
    (tmp_path / "a" / "step-00000004").rmdir()
    with open_run("train_glow", {}, root=root) as run:
        run.resume(tmp_path / "a")
    assert run.run_id != dead
    (tmp_path / "b" / "step-00000004").mkdir(parents=True)
    (tmp_path / "b" / runs.RUN_FILE).write_text('{"run_id": "of another store"}')
    with open_run("train_glow", {}, root=root) as run:
        run.resume(tmp_path / "b")
    assert connect(root).get_run(run.run_id).info.status == "FINISHED"


def test_an_address_from_the_environment_is_used(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/.mlflow/mlflow.db")
    with open_run("evaluate", {}, root=tmp_path) as run:
        pass
    assert connect(root).get_run(run.run_id).info.status == "FINISHED"
    assert not (tmp_path / ".mlflow").exists()


def test_a_store_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".mlflow").write_text("a file in the way")
    with pytest.raises(TimbreflowError, match="MLFLOW_TRACKING_URI"), open_run("evaluate", {}, root=tmp_path):
        pass


def test_looking_for_a_store_makes_none(tmp_path: Path) -> None:
    assert not has_store(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_lineage_names_the_commit_only_inside_git(tmp_path: Path) -> None:
    assert lineage(tmp_path) == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert len(commit) == 40
    assert lineage(tmp_path) == {"git_commit": commit, "git_dirty": "false"}


def test_lineage_says_whether_code_differs_from_the_commit(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "results").mkdir()
    for name in ("params.yaml", "dvc.lock", "results/metrics.json"):
        (tmp_path / name).write_text("a: 1")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    # What a run writes while it goes on is no change of the code, nor is a file that git does not know.
    for name in ("dvc.lock", "results/metrics.json", "new.txt"):
        (tmp_path / name).write_text("a: 2")
    assert lineage(tmp_path)["git_dirty"] == "false"
    (tmp_path / "params.yaml").write_text("a: 2")
    assert lineage(tmp_path)["git_dirty"] == "true"


def test_test_data_is_called_so(root: Path) -> None:
    with open_run("evaluate", {}, root=root) as run:
        run.dataset("data/audio", "d" * 64, context="evaluation")
    inputs = connect(root).get_run(run.run_id).inputs
    assert inputs is not None
    (used,) = inputs.dataset_inputs
    assert used.tags[0].value == "evaluation"


def test_the_experiment_opens_on_its_runs_and_not_as_a_genai_application(root: Path) -> None:
    with open_run("evaluate", {}, root=root):
        pass
    found = connect(root).get_experiment_by_name(EXPERIMENT)
    assert found is not None
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_locks_digest_is_that_of_the_committed_lock() -> None:
    assert lock_digest("schema: '2.0'\n") is None
    assert lock_digest("[") is None
    during = "schema: '2.0'\nstages:\n  train_glow: {md5: a}\n  evaluate: {md5: b}\n"
    digest = lock_digest(during)
    by_hand = {"train_glow": {"md5": "a"}, "evaluate": {"md5": "b"}}
    text = json.dumps(by_hand, sort_keys=True, separators=(",", ":"))
    assert digest == hashlib.md5(text.encode()).hexdigest()
    # DVC writes the entry of the stage that registers when it has ended.
    assert lock_digest(during + "  register_models: {md5: c}\n") == digest
    assert lock_digest(during.replace("md5: a", "md5: z")) != digest


def test_a_locks_digest_leads_to_its_commit(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    commits = {}
    for entry in ("a", "b", "c"):
        (tmp_path / "dvc.lock").write_text(f"stages:\n  train_glow: {{md5: {entry}}}\n")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", entry], check=True)
        commits[entry] = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    digest = lock_digest("stages:\n  train_glow: {md5: b}\n")
    assert digest is not None
    assert commit_of_lock(tmp_path, digest) == commits["b"]
    assert commit_of_lock(tmp_path, "0" * 32) is None
    assert commit_of_lock(tmp_path / "nowhere", digest) is None


def test_a_database_in_trouble_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "mlflow.db").write_text("this is no database " * 100)
    words = r"mlflow\.db\) cannot be used \(.*not a database.*move the file away"
    with pytest.raises(TimbreflowError, match=words), open_run("evaluate", {}, root=tmp_path):
        pass


def test_a_locked_database_is_one_sentence() -> None:
    @clear_errors
    def locked() -> None:
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))

    @clear_errors
    def passed_on() -> None:
        raise MlflowException("(sqlite3.OperationalError) database is locked [SQL: INSERT ...]")

    for call in (locked, passed_on):
        with pytest.raises(TimbreflowError, match="database is locked.*make stop"):
            call()


def test_wrong_credentials_are_named_where_a_server_refuses_later() -> None:
    @clear_errors
    def refused() -> None:
        raise MlflowException("API request to endpoint /api/2.0/mlflow/runs/create failed with error code 401 != 200.")

    with pytest.raises(TimbreflowError, match="refused: wrong credentials: set MLFLOW_TRACKING_USERNAME"):
        refused()
