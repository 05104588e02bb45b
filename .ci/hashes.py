"""Compare the sha256 of what pip has installed, by its --report, with requirements.hashes.

Not `pip install --require-hashes`: that wants a hash of everything, and a build of torch that belongs to the machine
(+cpu, +cu130, or a wheel of its own folder) has another one than the package index. Such builds are named and not
compared. Exit code 2 where a file differs, and where CI is set also where a package is not in the lock: it is then not
what was tested. Elsewhere such a package is a warning, since `make lock` starts with one, and other builds of torch
bring their own (nvidia-*).
"""

import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

HASHES = Path(__file__).resolve().parent.parent / "requirements.hashes"


def locked(text: str) -> dict[str, set[str]]:
    """sha256 sums by name==version."""
    found: dict[str, set[str]] = {}
    pin = ""
    for line in text.splitlines():
        if match := re.match(r"([\w.-]+==[^\s\\]+)", line):
            pin = match[1]
        found.setdefault(pin, set()).update(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


def main(*reports: str) -> int:
    """Compare, and say in a line what was not."""
    known = locked(HASHES.read_text(encoding="utf-8"))
    wrong: list[str] = []
    unknown: list[str] = []
    own: list[str] = []
    n_same = 0
    for report in reports:
        for item in json.loads(Path(report).read_text(encoding="utf-8"))["install"]:
            name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
            pin, origin = f"{name}=={item['metadata']['version']}", item["download_info"]
            sha256 = origin.get("archive_info", {}).get("hashes", {}).get("sha256")
            if "dir_info" in origin:
                continue
            if sha256 in known.get(pin, ()):
                n_same += 1
            elif urlsplit(origin["url"]).scheme == "file" or "+" in pin or sha256 is None:
                own.append(pin)
            elif pin not in known:
                unknown.append(pin)
            else:
                wrong.append(f"{pin} ({Path(urlsplit(origin['url']).path).name}, {sha256})")
    if wrong:
        print(
            f"error: these files are not those of requirements.hashes: {', '.join(wrong)}; remove .venv, find out who "
            "changed them, and if it was you, run `make lock`",
            file=sys.stderr,
        )
    strict = bool(os.environ.get("CI"))
    if unknown:
        print(
            f"{'error' if strict else 'warning'}: nobody has tested these packages, which are not in "
            f"requirements.hashes: {', '.join(unknown)}; run `make lock` where pyproject.toml asks for them, else "
            "find out what does",
            file=sys.stderr,
        )
    if wrong or (unknown and strict):
        return 2
    others = f"; not compared, since they are this machine's own: {', '.join(own)}" if own else ""
    if n_same or own:
        print(f"{n_same} packages have the sha256 of requirements.hashes{others}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
