"""A copy of this checkout with tiny parameters, its own servers and databases, driven as people drive it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tiny_params import dump, tiny

from timbreflow.config import preset_text

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Checkout:
    """A copy of this one with tiny parameters.

    Args:
        root: a folder that does not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("src", "flows"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", "pyproject.toml"):
            shutil.copy(ROOT / name, root / name)
        (root / ".dvc").mkdir()
        for name in ("config", "plots.html"):
            shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
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

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """The same without waiting; its output is one stream of lines."""
        return subprocess.Popen(
            [self.root / ".venv" / "bin" / command[0], *command[1:]],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def reproduce(self, *arguments: str) -> list[str]:
        """Names of the stages that ran."""
        result = self.run("dvc", "repro", *arguments)
        assert result.returncode == 0, result.stdout[-5000:]
        return [line.split("'")[1] for line in result.stdout.splitlines() if line.startswith("Running stage '")]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What Prefect's server answers to a POST."""
        port = self.environment["TIMBREFLOW_PREFECT_PORT"]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/{path}", json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def flow_runs(self) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.ask("flow_runs/filter")
        return runs
