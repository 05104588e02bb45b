"""Runs the tests of the fault matrix and writes docs/faults.md: `python -m tests.faults.report`, over an hour.

python -m tests.faults.report --junit FILE ...    only reads what such runs have written
"""

import argparse
import subprocess
import sys
import xml.etree.ElementTree as Xml
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.faults.matrix import FAULTS, TARGETS, Cell, cells
from timbreflow.files import write_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
HEAD = """# When things go wrong

What is promised for each fault in each part, and the test that shows it. The table is `tests/faults/matrix.py`; this
page is written by `tests/faults/report.py` from results of the tests, all of which `make fault-report` runs. *held*:
the tests of that fault in that part passed; *-*: there is no test. *One sentence*: a one-line message without a
traceback.

"""


def outcomes(files: Iterable[Path]) -> dict[str, str]:
    """Id of each test to passed, failed or skipped, from pytest's JUnit files."""
    found = {}
    for file in files:
        for case in Xml.parse(file).iter("testcase"):
            name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"
            kinds = {child.tag for child in case}
            found[name] = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
    return found


def state(cell: Cell, found: Mapping[str, str]) -> str:
    """held, FAILED, skipped, not run, or a dash where there is no test."""
    if not cell.tests:
        return "-"
    states = {found.get(test, "not run") for test in cell.tests}
    return next((word for word in ("failed", "skipped", "not run") if word in states), "held").replace(
        "failed", "FAILED"
    )


def page(found: Mapping[str, str]) -> str:
    """The page as Markdown."""
    all_cells = cells()
    states = {place: state(cell, found) for place, cell in all_cells.items()}
    count = Counter(states.values())
    tests = {test for cell in all_cells.values() for test in cell.tests}
    said = ", ".join(f"{number} {word}" for word, number in sorted(count.items()) if word != "-")
    lines = [
        f"{len(all_cells)} cells: {said} (by {len(tests)} tests), {count['-']} without a test (reasons below).\n",
        "| fault | " + " | ".join(TARGETS) + " |",
        "|---" * (len(TARGETS) + 1) + "|",
    ]
    lines += [f"| {fault} | " + " | ".join(states[fault, target] for target in TARGETS) + " |" for fault in FAULTS]
    for fault in FAULTS:
        lines += [f"\n## {fault}\n", "| part | promise | shown by |", "|---|---|---|"]
        merged: dict[tuple[str, str], list[str]] = {}
        for target in TARGETS:
            cell = all_cells[fault, target]
            shown = "<br>".join(f"`{test.replace(f'{target}]', '…]')}`" for test in cell.tests)
            merged.setdefault((cell.promise or "no promise", shown or f"no test: {cell.reason}"), []).append(target)
        lines += [f"| {', '.join(parts)} | {promise} | {shown} |" for (promise, shown), parts in merged.items()]
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--junit", type=Path, nargs="*", help="files of runs with --junit-xml")
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    files = arguments.junit
    if files is None:
        files = [ROOT / ".scratch" / "faults.xml"]
        # In the order of the pipeline, since a stage of test_full_disk.py needs those before it.
        tests = dict.fromkeys(test for cell in cells().values() for test in cell.tests)
        # Each process has a house of its own; tests that share a checkout are one group.
        shared = ["-n", "logical", "--maxprocesses", "4", "--dist", "loadgroup"]
        subprocess.run(
            [sys.executable, "-m", "pytest", f"--junit-xml={files[0]}", *shared, *tests], cwd=ROOT, check=False
        )
    found = outcomes(files)
    write_text(arguments.out, page(found))
    states = [state(cell, found) for cell in cells().values() if cell.tests]
    print(f"{states.count('held')} of {len(states)} tested cells held; see {arguments.out}")
    return int(set(states) != {"held"})


if __name__ == "__main__":
    sys.exit(main())
