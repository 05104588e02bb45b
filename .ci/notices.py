"""THIRD_PARTY.md: licence and page of every package that `transfer` and the pipeline need, as pip-licenses finds them.

`make notices` gives the path of pip-licenses. With --check nothing is written, and the exit code is 1 where the file is
out of date. It is 2 where a package has a licence that the project cannot use.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOTICES = Path(__file__).resolve().parent.parent / "THIRD_PARTY.md"
HEAD = """\
# Third-party packages

What an installation of timbreflow brings besides itself. Each package keeps its own licence, whose text comes with it.
Written by `make notices`.
"""
REFUSED = re.compile(r"(?<!L)\bA?GPL|(?<!Lesser )General Public License|UNKNOWN", re.IGNORECASE)
"""GPL and AGPL, not LGPL; and what is not known."""
STATED = {
    "grandalf": "GPL-2.0 OR EPL-1.0",
    "huey": "MIT",
    "pygit2": "GPL-2.0 with linking exception",
    "skops": "MIT",
}
"""Licences that the packages' own metadata lack, or give in part."""


def needed(extra: str) -> set[str]:
    """Names of the packages that timbreflow with an extra needs on this machine."""
    found: set[tuple[str, str]] = set()
    ahead = [("timbreflow", extra)]
    while ahead:
        here = ahead.pop()
        if here in found:
            continue
        name, own = here
        try:
            texts = requires(name) or ()
        except PackageNotFoundError:
            continue
        found.add(here)
        for requirement in map(Requirement, texts):
            if requirement.marker is None or requirement.marker.evaluate({"extra": own}):
                ahead += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return {name for name, _ in found} - {"timbreflow"}


def usable(licence: str) -> bool:
    """Whether one of the licences that a package lets its user choose allows any use."""
    return any(not REFUSED.search(choice) or "exception" in choice for choice in re.split(r"\bOR\b|;", licence))


def table(packages: list[dict[str, str]]) -> str:
    """As Markdown."""
    lines = ["| package | licence |", "|---|---|"]
    for package in packages:
        name, page = package["Name"], package["URL"]
        licence = " ".join(package["License"].replace("|", "/").split())[:100]
        lines.append(f"| {f'[{name}]({page})' if page.startswith('http') else name} | {licence} |")
    return "\n".join(lines)


def main(pip_licenses: str, *options: str) -> int:
    """Write or check the file."""
    command = [
        pip_licenses,
        "--python",
        sys.executable,
        "--from",
        "mixed",
        "--format",
        "json",
        "--with-urls",
        "--with-system",
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    packages: dict[str, Any] = {canonicalize_name(package["Name"]): package for package in found}
    for name, licence in STATED.items():
        packages[name]["License"] = licence
    core = needed("")
    text = HEAD
    for title, names in (("For transfer", core), ("For the pipeline", needed("pipeline") - core)):
        chosen = [packages[name] for name in sorted(names)]
        if bad := [f"{each['Name']} ({each['License']})" for each in chosen if not usable(each["License"])]:
            print(f"error: the project cannot use these licences: {', '.join(bad)}", file=sys.stderr)
            return 2
        text += f"\n## {title}\n\n{table(chosen)}\n"
    if "--check" not in options:
        NOTICES.write_text(text, encoding="utf-8")
    elif not NOTICES.is_file() or NOTICES.read_text(encoding="utf-8") != text:
        print("error: THIRD_PARTY.md is out of date; run `make notices`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
