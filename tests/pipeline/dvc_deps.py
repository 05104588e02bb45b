"""Which modules each DVC stage really reaches, from the import graph; run with --write to put them into dvc.yaml."""

import sys
from pathlib import Path

import grimp
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]


def reached(stage: str) -> list[str]:
    """Source files, relative to the checkout, of the modules that `timbreflow.stages.<stage>` imports, itself included.

    Packages' `__init__.py` hold a docstring only and do not count.
    """
    graph = grimp.build_graph("timbreflow")
    start = f"timbreflow.stages.{stage}"
    modules = {start} | graph.find_upstream_modules(start)
    files = (Path("src") / Path(*module.split(".")).with_suffix(".py") for module in modules)
    return sorted(str(file) for file in files if (ROOT / file).is_file())


def main(write: bool) -> None:
    """Compare, or rewrite dvc.yaml."""
    yaml = YAML()
    yaml.width = 120
    path = ROOT / "dvc.yaml"
    document = yaml.load(path.read_text(encoding="utf-8"))
    for name, stage in document["stages"].items():
        data = [dep for dep in stage["deps"] if not str(dep).endswith(".py")]
        stage["deps"] = data + reached(name)
    if write:
        with open(path, "w", encoding="utf-8") as file:
            yaml.dump(document, file)
    else:
        yaml.dump(document, sys.stdout)


if __name__ == "__main__":
    main("--write" in sys.argv)
