"""Files that were damaged in DVC's cache after they had been stored.

DVC (3.67) names each object by its md5 and makes it read-only. Of what is read-only it never computes the md5 again: it
hands out a damaged object as a whole one, and puts it in the place of what a stage has just made with the right bytes.
Of what is missing it says so, and makes or pulls it again; so what is damaged is removed.
"""

import hashlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from timbreflow.errors import TimbreflowError

OBJECT = re.compile("[0-9a-f]{32}(.dir)?")
"""The md5 of a file, or of the list of a folder's files."""


def remove_damaged(root: Path, stage: str | None = None) -> str:
    """Remove damaged objects, and what in this checkout is linked to them; returns a sentence, "" where all are whole.

    Args:
        root: the checkout.
        stage: look only at what dvc.lock names as outputs, and as other stages' outputs that this one reads; None: at
            the whole cache.

    Raises:
        TimbreflowError: DVC does not say where its cache is.
    """
    dvc = [sys.executable, "-m", "dvc", "cache", "dir"]
    asked = subprocess.run(dvc, cwd=root, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise TimbreflowError(f"`{' '.join(dvc)}` failed in {root}: {' '.join(asked.stderr.split())}")
    cache = Path(asked.stdout.strip()) / "files" / "md5"
    objects = [path for path in cache.glob("??/*") if OBJECT.fullmatch(_name(path))]
    if stage is not None:
        named = _named(root / "dvc.lock", stage, cache)
        objects = [path for path in objects if _name(path) in named]
    with ThreadPoolExecutor() as pool:
        damaged = [path for path, whole in zip(objects, pool.map(_is_whole, objects), strict=True) if not whole]
    if not damaged:
        return ""
    places = {_place(path) for path in damaged}
    files = [path for name in ("data", "results") for path in (root / name).rglob("*") if path.is_file()]
    linked = sorted(path for path in files if _place(path) in places)
    for path in [*linked, *damaged]:
        path.unlink()
    names = [str(path.relative_to(root)) for path in linked] or [str(path) for path in damaged]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"DVC's cache held damaged copies of {', '.join(names[:3])}{more}; they were removed. `dvc repro` makes them "
        "again, `dvc repro --pull` fetches them."
    )


def _named(lock: Path, stage: str, cache: Path) -> set[str]:
    """Names of the objects that a stage reads or has written, as far as dvc.lock knows; of a new stage, all of them."""
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load(lock.read_text(encoding="utf-8"))["stages"] if lock.exists() else {}
    own = {entry["path"] for kind in ("deps", "outs") for entry in stages.get(stage, {}).get(kind, [])}
    outs = [out for entry in stages.values() for out in entry.get("outs", [])]
    found = {out["md5"] for out in outs if stage not in stages or out["path"] in own}
    for folder in [name for name in found if name.endswith(".dir")]:
        with suppress(OSError, ValueError):
            found |= {entry["md5"] for entry in json.loads((cache / folder[:2] / folder[2:]).read_bytes())}
    return found


def _name(path: Path) -> str:
    return path.parent.name + path.name


def _is_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
    return digest.hexdigest() == _name(path).removesuffix(".dir")


def _place(path: Path) -> tuple[int, int]:
    """The same for a file and for links to it."""
    return path.stat().st_dev, path.stat().st_ino
