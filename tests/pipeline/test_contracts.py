"""The house keeps its own rules: imports go one way, and dvc.yaml names what each stage reaches."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc_deps import reached
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def test_make_clean_leaves_what_git_has(tmp_path: Path) -> None:
    for name in ("Makefile", ".gitignore"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    kept = [
        tmp_path / "results" / name
        for name in ("ablations/table.md", "testsets/real/table.md", "evaluate/metrics.json")
    ]
    made = [tmp_path / "results" / "report" / "report.html", tmp_path / "data" / "mels" / "index.parquet"]
    for path in (*kept, *made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for command in (["git", "init", "-q"], ["git", "add", "-A"], ["make", "-o", "stop", "clean"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert all(path.is_file() for path in kept)
    assert not any(path.exists() for path in made)


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_deps_are_the_modules_the_stage_reaches(stage: str) -> None:
    named = sorted(dep for dep in STAGES[stage]["deps"] if dep.endswith(".py"))
    assert named == reached(stage), "run `python tests/pipeline/dvc_deps.py --write`"


@pytest.mark.parametrize("stage", STAGES)
def test_one_name_finds_stage_flow_and_results(stage: str) -> None:
    assert (ROOT / "flows" / f"{stage}.py").is_file()
    assert (ROOT / "src" / "timbreflow" / "stages" / f"{stage}.py").is_file()
    metrics = [path for out in STAGES[stage].get("metrics", []) for path in out]
    assert all(path.startswith(f"results/{stage}/") and path.endswith("metrics.json") for path in metrics)


@pytest.mark.parametrize("stage", STAGES)
def test_flows_and_params_are_no_dependency_on_each_other(stage: str) -> None:
    assert not [dep for dep in STAGES[stage]["deps"] if dep.startswith("flows")]
    # The report tells how evaluate was set, and has no settings of its own.
    section = "evaluate" if stage == "report" else stage
    assert section in {param.split(".")[0] for param in STAGES[stage]["params"]}


def test_the_look_of_the_report_is_no_reason_to_evaluate_again() -> None:
    assert not [dep for dep in STAGES["evaluate"]["deps"] if "reporting" in dep]
    assert "src/timbreflow/reporting/templates" in STAGES["report"]["deps"]


def test_import_contracts() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("prefect", ("flows/",)),
        ("mlflow", ("src/timbreflow/tracking/", "src/timbreflow/inference/pyfunc.py")),
        ("great_expectations", ("src/timbreflow/validation/",)),
        ("torchaudio", ("src/timbreflow/audio/torchaudio_compat.py",)),
    ],
)
def test_libraries_stay_in_their_homes(library: str, homes: tuple[str, ...]) -> None:
    importers = {
        str(path.relative_to(ROOT))
        for folder in ("src", "flows")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith((f"import {library}", f"from {library} ", f"from {library}."))
    }
    assert importers
    assert {path for path in importers if not path.startswith(homes)} == set()
