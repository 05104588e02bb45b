"""Mutation score: how many small faults, put into the code of [tool.mutmut] of pyproject.toml, the tests notice.

`make mutation` runs it. The same EACH mutants of each file are drawn each time, as long as the file stays the same.
Prints a table; `.scratch/mutation/survivors.diff` shows what was not noticed. Mutants that change nothing are in
`.ci/equivalent.txt` and do not count. Exit code 1 where a file's share of noticed mutants is below LEAST.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
LEAST = 0.8
SURVIVED, NO_TESTS = (0,), (5, 33)
"""Exit codes of pytest under mutmut."""
Outcome = Literal["noticed", "survived", "untested", "equivalent"]
MUTMUT = [sys.executable, "-c", "from mutmut.__main__ import cli; cli()"]


def drawn(path: Path, each: int) -> tuple[list[str], int]:
    """Names of the mutants of a file that are tried, and how many it has."""
    # Of the environment that `make mutation` makes.
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    made = mutate_file_contents(str(path), path.read_text(encoding="utf-8"), None, set()).mutant_names
    names = sorted(get_mutant_name(path, name) for name in made)
    return sorted(random.Random(0).sample(names, min(each, len(names)))), len(names)


def outcome(code: int, diff: str, equivalent: set[str]) -> Outcome:
    """What became of a mutant, by its exit code, and its diff where it was not noticed."""
    if code not in (*SURVIVED, *NO_TESTS):
        return "noticed"
    added = [line[1:].strip() for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
    if added and equivalent.issuperset(added):
        return "equivalent"
    return "survived" if code in SURVIVED else "untested"


def report(results: dict[str, tuple[int, list[Outcome]]]) -> tuple[str, list[str]]:
    """What became of the mutants.

    Args:
        results: for each file, how many mutants it has, and what became of those that were tried.

    Returns:
        A table in Markdown, and the files that are below `LEAST`.
    """
    rows = ["| file | mutants | tried | equivalent | noticed | survived | untested |", "|---|---|---|---|---|---|---|"]
    totals, poor = [0] * 6, []
    for path, (n_all, found) in results.items():
        counts = [found.count(kind) for kind in ("equivalent", "noticed", "survived", "untested")]
        figures = [n_all, len(found), *counts]
        totals = [total + figure for total, figure in zip(totals, figures, strict=True)]
        rows.append(_row(path.removeprefix("src/timbreflow/"), figures))
        if counts[1] < LEAST * (len(found) - counts[0]):
            poor.append(path)
    return "\n".join([*rows, _row("all", totals)]), poor


def _row(name: str, figures: list[int]) -> str:
    n_all, tried, equivalent, noticed, survived, untested = figures
    share = noticed / max(1, tried - equivalent)
    return f"| {name} | {n_all} | {tried} | {equivalent} | {noticed} ({share:.0%}) | {survived} | {untested} |"


def main(each: int) -> int:
    """Try them."""
    from mutmut.utils.file_utils import walk_mutatable_files

    os.chdir(ROOT)
    shutil.rmtree("mutants", ignore_errors=True)  # which tests reach which function, as they were
    plan = {path: tried for path in sorted(walk_mutatable_files()) if (tried := drawn(path, each))[0]}
    names = [name for chosen, _ in plan.values() for name in chosen]
    subprocess.run([*MUTMUT, "run", "--max-children", os.environ.get("JOBS", "1"), *names], check=True)
    lines = (ROOT / ".ci" / "equivalent.txt").read_text(encoding="utf-8").splitlines()
    equivalent = {line.partition("  #")[0].strip() for line in lines if not line.startswith("#")}
    results: dict[str, tuple[int, list[Outcome]]] = {}
    survivors: list[str] = []
    for path, (chosen, n_all) in plan.items():
        codes = json.loads(Path("mutants", f"{path}.meta").read_text(encoding="utf-8"))["exit_code_by_key"]
        if missing := [name for name in chosen if codes[name] is None]:
            raise SystemExit(f"error: {len(missing)} mutants of {path} were not tried; see above")
        diffs = [_diff(name) if codes[name] in (*SURVIVED, *NO_TESTS) else "" for name in chosen]
        found = [outcome(codes[name], diff, equivalent) for name, diff in zip(chosen, diffs, strict=True)]
        results[str(path)] = n_all, found
        survivors += [diff for diff, kind in zip(diffs, found, strict=True) if kind in ("survived", "untested")]
    out = ROOT / ".scratch" / "mutation" / "survivors.diff"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(survivors), encoding="utf-8")
    text, poor = report(results)
    print(text)
    print(f"{len(survivors)} survivors: {out.relative_to(ROOT)}")
    if poor:
        print(f"error: below {LEAST:.0%}: {', '.join(poor)}", file=sys.stderr)
    return int(bool(poor))


def _diff(name: str) -> str:
    return subprocess.run([*MUTMUT, "show", name], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
