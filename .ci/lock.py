"""Rewrite requirements.lock: what is installed, and what the extras would add, without local versions such as +cpu."""

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
HEAD = """\
# Versions that were tested together (Python 3.11 and 3.12), used as constraints: pip install -c requirements.lock -e .
# Remade by `make lock`. torch without a local version (+cpu, +cu130): the index or the machine decides the build.
"""
NOT_LOCKED = {"timbreflow", "pip", "basic-pitch"}


def pip(*arguments: str) -> str:
    """Standard output of pip."""
    return subprocess.run([sys.executable, "-m", "pip", *arguments], check=True, capture_output=True, text=True).stdout


def normal(name: str) -> str:
    """The name as the index writes it."""
    return name.lower().replace("_", "-")


def main() -> None:
    """Write the lock file."""
    extras = json.loads(pip("install", "--dry-run", "--quiet", "--report", "-", "-e", ".[dev,dask,ray,fuzz]"))
    pins = {normal(item["metadata"]["name"]): item["metadata"]["version"] for item in extras["install"]}
    for item in json.loads(pip("list", "--format=json")):
        pins.setdefault(normal(item["name"]), item["version"])
    lines = [f"{name}=={pins[name].partition('+')[0]}\n" for name in sorted(pins) if name not in NOT_LOCKED]
    LOCK.write_text(HEAD + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
