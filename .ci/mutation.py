"""Mutation score: how many small faults, put into the code of [tool.mutmut] of pyproject.toml, the tests notice.

`make mutation` runs it. The same EACH mutants of each file are drawn each time, as long as the file stays the same.
Prints a table, and the survivors, which `.scratch/mutation/survivors.diff` shows. Exit code 1 where a file's share of
noticed mutants is below LEAST.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEAST = 0.8
SURVIVED = 0
NO_TEST = (5, 33)
MUTMUT = [sys.executable, "-c", "from mutmut.__main__ import cli; cli()"]


def drawn(path: Path, each: int) -> tuple[list[str], int]:
    """Names of the mutants of a file that are tried, and how many it has."""
    # Of the environment that `make mutation` makes.
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    made = mutate_file_contents(str(path), path.read_text(encoding="utf-8"), None, set()).mutant_names
    names = sorted(get_mutant_name(path, name) for name in made)
    return sorted(random.Random(0).sample(names, min(each, len(names)))), len(names)


def report(results: dict[str, tuple[int, list[int]]]) -> tuple[str, list[str]]:
    """What became of the mutants.

    Args:
        results: for each file, how many mutants it has, and pytest's exit codes for those that were tried.

    Returns:
        A table in Markdown, and the files that are below `LEAST`.
    """
    rows = ["| file | mutants | tried | noticed | survived | without a test |", "|---|---|---|---|---|---|"]
    totals, poor = [0] * 5, []
    for path, (n_all, codes) in results.items():
        survived, untested = codes.count(SURVIVED), sum(code in NO_TEST for code in codes)
        noticed = len(codes) - survived - untested
        figures = [n_all, len(codes), noticed, survived, untested]
        totals = [total + figure for total, figure in zip(totals, figures, strict=True)]
        rows.append(_row(path.removeprefix("src/timbreflow/"), figures))
        if noticed < LEAST * len(codes):
            poor.append(path)
    return "\n".join([*rows, _row("all", totals)]), poor


def _row(name: str, figures: list[int]) -> str:
    n_all, tried, noticed, survived, untested = figures
    return f"| {name} | {n_all} | {tried} | {noticed} ({noticed / tried:.0%}) | {survived} | {untested} |"


def main(each: int) -> int:
    """Try them."""
    from mutmut.utils.file_utils import walk_mutatable_files

    os.chdir(ROOT)
    shutil.rmtree("mutants", ignore_errors=True)  # which tests reach which function, as they were
    plan = {path: found for path in sorted(walk_mutatable_files()) if (found := drawn(path, each))[0]}
    names = [name for chosen, _ in plan.values() for name in chosen]
    subprocess.run([*MUTMUT, "run", "--max-children", os.environ.get("JOBS", "1"), *names], check=True)
    results: dict[str, tuple[int, list[int]]] = {}
    survivors: list[str] = []
    for path, (chosen, n_all) in plan.items():
        codes = json.loads(Path("mutants", f"{path}.meta").read_text(encoding="utf-8"))["exit_code_by_key"]
        if missing := [name for name in chosen if codes[name] is None]:
            raise SystemExit(f"error: {len(missing)} mutants of {path} were not tried; see above")
        results[str(path)] = n_all, [codes[name] for name in chosen]
        survivors += [name for name in chosen if codes[name] in (SURVIVED, *NO_TEST)]
    out = ROOT / ".scratch" / "mutation" / "survivors.diff"
    out.parent.mkdir(parents=True, exist_ok=True)
    shown = [subprocess.run([*MUTMUT, "show", name], check=True, capture_output=True, text=True) for name in survivors]
    out.write_text("\n".join(done.stdout for done in shown), encoding="utf-8")
    text, poor = report(results)
    print(text)
    print(f"{len(survivors)} survivors: {out.relative_to(ROOT)}")
    if poor:
        print(f"error: below {LEAST:.0%}: {', '.join(poor)}", file=sys.stderr)
    return int(bool(poor))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
