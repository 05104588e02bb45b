"""MIDI files inside the WAD files of Doom-like games (the Debian packages freedoom and freedm).

A WAD is a header ("IWAD" or "PWAD", number of lumps, offset of the directory), lumps, and a directory of (offset, size,
8-byte name). Lumps that are standard MIDI files are given; the older MUS format does not occur in these packages.
Specification: https://doomwiki.org/wiki/WAD.
"""

import struct
from collections.abc import Iterator
from pathlib import Path


def midi_lumps(path: Path, max_bytes: int) -> Iterator[tuple[str, bytes, int]]:
    """Yield (name, first `max_bytes + 1` bytes, size) of every lump that begins as a MIDI file.

    Raises:
        ValueError: it is not a WAD, or its directory lies outside of it.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        header = file.read(12)
        if len(header) < 12 or header[:4] not in (b"IWAD", b"PWAD"):
            raise ValueError("it is not a WAD file")
        n_lumps, offset = struct.unpack("<ii", header[4:])
        size = path.stat().st_size
        if n_lumps < 0 or offset < 12 or offset + 16 * n_lumps > size:
            raise ValueError("its directory lies outside of the file")
        file.seek(offset)
        directory = file.read(16 * n_lumps)
        for k in range(n_lumps):
            position, length, name = struct.unpack_from("<ii8s", directory, 16 * k)
            if length < 14 or position < 12 or position + length > size:
                continue
            file.seek(position)
            data = file.read(min(length, max_bytes + 1))
            if data[:4] == b"MThd":
                yield name.rstrip(b"\x00").decode("ascii", "replace"), data, length
