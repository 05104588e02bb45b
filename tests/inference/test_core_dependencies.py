"""Transfer needs the core dependencies alone, from Python and from the command line."""

import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOUNDS = ROOT / "docs" / "sounds"
PIPELINE = (
    *("mlflow", "prefect", "dvc", "pandas", "pyarrow", "librosa", "numba", "scipy", "matplotlib", "great_expectations"),
    *("onnxruntime", "music21", "symusic", "filelock", "psutil", "ruamel", "httpx"),
)
HIDE = """
import sys
from importlib.machinery import PathFinder

class Core:
    hidden = set(sys.argv.pop(1).split(","))

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in cls.hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not PathFinder] + [Core]
"""


def not_core() -> set[str]:
    """Names of all installed modules that no core dependency brings, and of the pipeline's."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        wanted = list(tomllib.load(file)["project"]["dependencies"])
    core: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonical(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
        if "extra ==" in requirement or name in core:
            continue
        core.add(name)
        with suppress(PackageNotFoundError):  # of another platform
            wanted += requires(name) or []
    others = {
        module
        for module, owners in packages_distributions().items()
        if not {canonical(owner) for owner in owners} & core and module.isidentifier()
    }
    return (others | set(PIPELINE)) - {"timbreflow"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE + code, ",".join(sorted(not_core())), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_the_pipeline_is_hidden() -> None:
    assert {"mlflow", "pytest", "scipy", "pandas"} <= not_core()
    assert not {"torch", "numpy", "soundfile", "tqdm", "sympy"} & not_core()


def test_python_needs_the_core_alone(tmp_path: Path) -> None:
    code = """
from timbreflow import TimbreTransfer
session = TimbreTransfer.released("glow")
session.transfer_file(sys.argv[1] + "/violin-tune.ogg", sys.argv[1] + "/xylophone.ogg", "out.wav", fit_style=1)
print(sorted(Core.hidden & {name.partition(".")[0] for name in sys.modules}))
"""
    done = run(code, str(SOUNDS), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "out.wav").is_file()


def test_a_server_records_with_the_core_alone(tmp_path: Path) -> None:
    code = """
import numpy as np
from timbreflow.monitoring.recorder import Recorder
sound = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
Recorder("records").record(sound, sound, sound, 16_000, model="vqvae", seconds=1.0)
"""
    done = run(code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    [written] = (tmp_path / "records").glob("*.jsonl")
    assert '"model": "vqvae"' in written.read_text()


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run("from timbreflow.cli import main; main()", *arguments, cwd=cwd)


@pytest.mark.parametrize("inside", [True, False], ids=["in the checkout", "elsewhere"])
def test_the_command_needs_the_core_alone(tmp_path: Path, inside: bool) -> None:
    sounds = (str(SOUNDS / "violin-tune.ogg"), str(SOUNDS / "xylophone.ogg"))
    done = command("transfer", *sounds, "-o", str(tmp_path / "out.wav"), cwd=ROOT if inside else tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("model: the released vqvae (")
    assert (tmp_path / "out.wav").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("transfer", "a.wav", "b.wav", "-o", "c.wav", "--model", "models:/timbreflow-glow@champion"),
        ("preset",),
        ("register",),
        ("evaluate", "--testset", "real"),
        ("collect", "x", "--out", "y"),
    ],
    ids=" ".join,
)
def test_other_commands_say_what_they_need(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = command(*arguments, cwd=ROOT if arguments[0] != "collect" else tmp_path)
    assert done.returncode == 2, done.stderr
    assert re.search(r"needs the pipeline.*make setup.*pip install '\.\[pipeline\]'", done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
