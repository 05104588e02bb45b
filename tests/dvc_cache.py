"""Objects of DVC's cache, and what a disk may do to them."""

import os
from pathlib import Path


def stored(root: Path, path: str | Path) -> Path:
    """The object that a file of a checkout is linked to."""
    objects = (root / ".dvc" / "cache" / "files" / "md5").glob("??/*")
    return next(one for one in objects if one.samefile(root / path))


def flip(file: Path) -> None:
    """Flip a bit in the middle; neither time nor permissions change."""
    data, status = bytearray(file.read_bytes()), file.stat()
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    file.chmod(status.st_mode)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
