"""The quarter of an hour on a GPU, rehearsed on the CPU: the same commands, in a tiny size."""

import os
import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tiny_params import dump, tiny
from timbreflow.config import parse_params, preset_text
from timbreflow.models.bundle import load_bundle
from timbreflow.models.glow.model import Glow
from timbreflow.models.refiner import Refiner
from timbreflow.models.vqvae import VQVAE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_short.py"
MACHINE = ("torch", "torchaudio", "scipy", "pandas", "pyarrow", "numba", "pip")
LIKE_THE_MACHINE = """
import ctypes.util, sys

class Without:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name in {names!r} else self._finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
found = ctypes.util.find_library
ctypes.util.find_library = lambda name: None if "fluidsynth" in name else found(name)
"""


def lacking_modules() -> set[str]:
    """Top-level modules of this environment that neither the GPU machine nor the packed wheels have."""
    there = {canonicalize_name(name) for name in ("timbreflow", *runpy.run_path(str(SCRIPT))["WHEELS"])}
    asked = {canonicalize_name(name) for name in MACHINE}
    while asked:
        there |= asked
        needs = [Requirement(text) for name in asked for text in metadata.requires(name) or ()]
        asked = {
            canonicalize_name(need.name) for need in needs if not need.marker or need.marker.evaluate({"extra": ""})
        }
        asked -= there
    owners = metadata.packages_distributions()
    return {module for module, names in owners.items() if there.isdisjoint(map(canonicalize_name, names))}


def command(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run in an environment that knows nothing of the project, but at home its package."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {"TIMBREFLOW_DEVICE": "cpu", "TIMBREFLOW_WORKERS": "2", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT / "src")} if script == SCRIPT else {}
    words = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(words, cwd=script.parent, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_prepare_run_and_join(tmp_path: Path) -> None:
    values = tiny(preset_text("gpu-short"))
    values["collect_midi"] |= {"sources": ["music21/schumann_robert", "music21/haydn"], "fractions": {}}
    values["render_triples"]["triples"] = {"train": 8, "validation": 4, "test": 0, "test_seen": 0}
    (tmp_path / "params.yaml").write_text(dump(values), encoding="utf-8")
    folder, out = tmp_path / "packed", tmp_path / "out"
    done = command(SCRIPT, "prepare", "--folder", folder, "--params", tmp_path / "params.yaml", "--no-wheels")
    assert done.returncode == 0, done.stderr
    assert "is ready" in done.stdout

    lacking = lacking_modules()
    assert {"librosa", "mlflow", "sklearn", "requests"} <= lacking and lacking.isdisjoint({"numpy", "tqdm", "torch"})
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(LIKE_THE_MACHINE.format(names=lacking), encoding="utf-8")
    done = command(folder / "benchmarks" / "gpu_short.py", "run", "--out", out, "--minutes", "30")
    assert done.returncode == 0, done.stderr[-3000:]
    log = (out / "log.txt").read_text()
    assert log.count("all training triples are in the memory of cpu") == 6  # to measure and to train, of three models
    assert len(re.findall(r"(?:vqvae|glow|refiner): [\d.]+ ms a step in (?:bfloat16|float32), so \d+ steps", log)) == 3
    assert sorted(path.name for path in out.iterdir()) == [
        "glow.tar.xz.00",
        "glow.tar.xz.01",
        "log.txt",
        "refiner.tar.xz.00",
        "vqvae.tar.xz.00",
    ]

    done = command(SCRIPT, "join", out, tmp_path / "models")
    assert done.returncode == 0, done.stderr
    assert load_bundle(tmp_path / "models" / "glow").training["steps"] == 4
    refiner = load_bundle(tmp_path / "models" / "refiner")
    assert isinstance(refiner.model, Refiner) and set(refiner.training["models"]) == {"vqvae", "glow"}
    assert load_bundle(tmp_path / "models" / "vqvae").training["steps"] == 4

    done = command(folder / "benchmarks" / "gpu_short.py", "run", "--out", tmp_path / "late", "--minutes", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    late = (tmp_path / "late" / "log.txt").read_text()
    assert "stopping vqvae and glow" in late and "no refiner" in late

    (out / "glow.tar.xz.00").write_bytes((out / "glow.tar.xz.00").read_bytes()[:-1000])
    done = command(SCRIPT, "join", out, tmp_path / "again")
    assert done.returncode == 2 and re.match(r"error: The parts of glow in .* do not fit together", done.stderr)


def test_the_weights_of_the_preset_come_home_in_what_a_command_may_bring() -> None:
    from ruamel.yaml import YAML

    params = parse_params(YAML(typ="safe").load(preset_text("gpu-short")), source="gpu-short")
    numbers = sum(
        tensor.numel()
        for model in (
            VQVAE(params.train_vqvae.base.model),
            Glow(params.train_glow.model),
            Refiner(params.train_refiner.model),
        )
        for tensor in model.state_dict().values()
    )
    # Half precision, of which .xz leaves 88 % (measured on the released weights), with a log: 64 MiB.
    assert 2 * numbers * 0.88 < 63 * 2**20
