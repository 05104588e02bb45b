"""The house keeps its own rules: imports go one way, and dvc.yaml names what each stage reaches."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc_deps import covers, dependencies, reached
from ruamel.yaml import YAML

from timbreflow.models.catalogue import GATED, KnownModel

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    name: stage.get("do", stage)
    for name, stage in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items()
}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_deps_cover_the_modules_the_stage_reaches_and_nothing_else(stage: str) -> None:
    named = [dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")]
    files = reached(stage)
    again = "run `python tests/pipeline/dvc_deps.py --write`"
    assert [file for file in files if not covers(named, file)] == [], again
    assert [place for place in named if not any(covers([place], file) for file in files)] == [], again
    assert named == sorted(set(named)), again


def test_a_package_is_a_dependency_as_a_folder_where_most_of_it_is_reached() -> None:
    package = Path("src/timbreflow/rendering")
    modules = {path.relative_to(ROOT) for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"}
    few = set(sorted(modules)[:3])
    assert dependencies(modules) == [str(package)]
    assert dependencies(few) == sorted(map(str, few))


@pytest.mark.parametrize("stage", STAGES)
def test_one_name_finds_stage_flow_and_results(stage: str) -> None:
    assert (ROOT / "flows" / f"{stage}.py").is_file()
    assert (ROOT / "src" / "timbreflow" / "stages" / f"{stage}.py").is_file()
    figures = [path for out in STAGES[stage].get("outs", []) if isinstance(out, dict) for path in out]
    assert all(path.startswith(f"results/{stage}/") and path.endswith("metrics.json") for path in figures)


@pytest.mark.parametrize("model", GATED, ids=lambda model: model.name)
def test_what_is_registered_is_a_dependency_of_its_stage(model: KnownModel) -> None:
    run = f"results/{model.section.replace('.', '/')}/run.json"
    assert {f"data/models/{model.name}", run} <= set(STAGES["register_models"]["deps"])


def test_dvc_shows_the_few_figures_for_people_alone() -> None:
    assert [stage for stage in STAGES if "metrics" in STAGES[stage]] == ["report"]


@pytest.mark.parametrize("stage", STAGES)
def test_flows_and_params_are_no_dependency_on_each_other(stage: str) -> None:
    assert not [dep for dep in STAGES[stage]["deps"] if dep.startswith("flows")]
    # The report tells how evaluate was set, and has no settings of its own.
    section = "evaluate" if stage == "report" else stage
    assert section in {param.split(".")[0] for param in STAGES[stage]["params"]}


def test_the_look_of_the_report_is_no_reason_to_evaluate_again() -> None:
    assert not [dep for dep in STAGES["evaluate"]["deps"] if "reporting" in dep]


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
