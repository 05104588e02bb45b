"""The pipeline as people run it, on tiny parameters: a second run does nothing, one change reruns little."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tiny_params import dump, tiny

from timbreflow.config import preset_text

ROOT = Path(__file__).resolve().parents[2]
STAGES = [
    "collect_midi",
    "render_triples",
    "extract_mels",
    "validate_data",
    "train_timbre_metric",
    "train_vqvae@paper",
    "train_vqvae@base",
    "train_glow",
    "evaluate",
    "register_models",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Checkout:
    """A copy of this one with tiny parameters, its own servers and databases."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("src", "flows"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", "pyproject.toml"):
            shutil.copy(ROOT / name, root / name)
        (root / ".dvc").mkdir()
        shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
        (root / ".venv").symlink_to(sys.prefix)
        subprocess.run(["git", "init", "-q", root], check=True)
        self.write(tiny(preset_text("default")))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "PYTHONPATH": str(root / "src"),
            "TIMBREFLOW_PREFECT_PORT": str(free_port()),
            "TIMBREFLOW_MLFLOW_PORT": str(free_port()),
        }

    def write(self, values: dict[str, Any]) -> None:
        (self.root / "params.yaml").write_text(dump(values))

    def values(self) -> dict[str, Any]:
        loaded: dict[str, Any] = YAML(typ="safe").load((self.root / "params.yaml").read_text())
        return loaded

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        bin_folder = self.root / ".venv" / "bin"
        return subprocess.run(
            [bin_folder / command[0], *command[1:]],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def reproduce(self, *arguments: str) -> list[str]:
        """Names of the stages that ran."""
        result = self.run("dvc", "repro", *arguments)
        assert result.returncode == 0, result.stdout[-5000:]
        return [line.split("'")[1] for line in result.stdout.splitlines() if line.startswith("Running stage '")]

    def flow_runs(self) -> list[dict[str, Any]]:
        port = self.environment["TIMBREFLOW_PREFECT_PORT"]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/flow_runs/filter", b"{}", {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            runs: list[dict[str, Any]] = json.load(response)
        return runs


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


def test_editing_one_parameter_reruns_exactly_what_depends_on_it(checkout: Checkout) -> None:
    values = checkout.values()
    values["register_models"]["gate"]["criteria"]["lsd"]["limit"] = 900.0
    checkout.write(values)
    assert checkout.reproduce() == ["register_models"]
    values["train_glow"]["noise"] = 0.2
    checkout.write(values)
    assert checkout.reproduce() == ["train_glow", "evaluate", "register_models"]


def test_a_wrong_parameter_stops_with_one_sentence_and_keeps_the_models(checkout: Checkout) -> None:
    values = checkout.values()
    values["train_glow"]["noize"] = 0.1
    good = (checkout.root / "params.yaml").read_text()
    checkout.write(values)
    weights = checkout.root / "data" / "models" / "vqvae-base" / "weights.safetensors"
    before = weights.read_bytes()
    result = checkout.run("dvc", "repro")
    (checkout.root / "params.yaml").write_text(good)
    assert result.returncode != 0
    assert "error: " in result.stdout
    assert "train_glow.noize is not a known parameter" in result.stdout
    assert "Traceback" not in result.stdout
    assert weights.read_bytes() == before


def test_without_a_server_a_stage_still_runs_and_is_seen_later(checkout: Checkout) -> None:
    before = len(checkout.flow_runs())
    checkout.run("timbreflow", "stop")
    assert checkout.reproduce("--force", "--single-item", "register_models") == ["register_models"]
    assert checkout.run("timbreflow", "ui").returncode == 0
    assert len(checkout.flow_runs()) == before + 1


def test_the_registry_is_filled_again_when_it_is_lost(checkout: Checkout) -> None:
    checkout.run("timbreflow", "stop")
    shutil.rmtree(checkout.root / ".mlflow")
    first = checkout.run("timbreflow", "register", "--check")
    again = checkout.run("timbreflow", "register", "--check")
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
    assert [run["name"] for run in runs if f"pipeline:{parent['id']}" in run["tags"]] == ["register_models"]
