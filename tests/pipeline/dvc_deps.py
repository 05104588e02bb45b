"""What of src/timbreflow each DVC stage depends on, from the import graph; run with --write to put it into dvc.yaml.

The rule: of each package, from the outermost inwards, a stage depends on the whole folder if its module reaches at
least two thirds of the files in it and two at least, and on the reached files by name otherwise. So a change in
what a stage mostly uses makes it stale even where it does not use that very file, which costs a run that was not
needed but never leaves out one that was; and a package of which it uses little, such as stages/, makes it stale by
the used files alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import grimp
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("src") / "timbreflow"
MOSTLY = 2 / 3


def reached(stage: str) -> set[Path]:
    """Source files, relative to the checkout, of the modules that `timbreflow.stages.<stage>` imports, itself included.

    Packages' `__init__.py` hold a docstring only and do not count.
    """
    graph = grimp.build_graph("timbreflow")
    start = f"timbreflow.stages.{stage}"
    modules = {start} | graph.find_upstream_modules(start)
    files = (Path("src") / Path(*module.split(".")).with_suffix(".py") for module in modules)
    return {file for file in files if (ROOT / file).is_file()}


def dependencies(files: set[Path], folder: Path = PACKAGE) -> list[str]:
    """Folders and files by the rule, sorted.

    Args:
        files: what a stage reaches.
        folder: package to look at, relative to the checkout.
    """
    inside = {file for file in files if folder in file.parents}
    modules = [path for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"]
    if folder != PACKAGE and len(inside) >= max(2, MOSTLY * len(modules)):
        return [str(folder)]
    named = [str(file) for file in inside if file.parent == folder]
    for package in {ROOT / folder / file.relative_to(folder).parts[0] for file in inside if file.parent != folder}:
        named += dependencies(inside, package.relative_to(ROOT))
    return sorted(named)


def covers(named: Sequence[str], file: Path) -> bool:
    """Whether a file is named, or lies in a folder that is."""
    return any(str(place) in named for place in (file, *file.parents))


def main(write: bool) -> None:
    """Show, or rewrite dvc.yaml."""
    yaml = YAML()
    yaml.width = 120
    path = ROOT / "dvc.yaml"
    document = yaml.load(path.read_text(encoding="utf-8"))
    for name, stage in document["stages"].items():
        stage = stage.get("do", stage)  # a stage for each of several things
        data = [dep for dep in stage["deps"] if not str(dep).startswith("src/")]
        stage["deps"] = data + dependencies(reached(name))
    if write:
        with open(path, "w", encoding="utf-8") as file:
            yaml.dump(document, file)
    else:
        yaml.dump(document, sys.stdout)


if __name__ == "__main__":
    main("--write" in sys.argv)
