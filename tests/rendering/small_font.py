"""A SoundFont of a few presets with given sample data, for tests of what presets share."""

import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path


def write_font(path: Path, presets: Mapping[tuple[int, int], Sequence[bytes]]) -> Path:
    """Write a font.

    Args:
        path: of the file.
        presets: (bank, program) to the 16-bit data of each sample; every preset has an instrument and sample headers
            of its own, also where the data is another's.
    """
    data = [sample for samples in presets.values() for sample in samples]
    bounds = [0, *accumulate(len(sample) // 2 for sample in data)]
    first = [0, *accumulate(len(samples) for samples in presets.values())]
    numbers = range(len(presets) + 1)
    headers = [*presets, (0, 0)]
    tables = {
        b"phdr": [struct.pack("<20sHHHIII", b"p", headers[n][1], headers[n][0], n, 0, 0, 0) for n in numbers],
        b"pbag": [struct.pack("<HH", n, 0) for n in numbers],
        b"pmod": [bytes(10)],
        b"pgen": [struct.pack("<HH", 41, n) for n in numbers[:-1]] + [bytes(4)],
        b"inst": [struct.pack("<20sH", b"i", zone) for zone in first],
        b"ibag": [struct.pack("<HH", n, 0) for n in range(len(data) + 1)],
        b"imod": [bytes(10)],
        b"igen": [struct.pack("<HH", 53, n) for n in range(len(data))] + [bytes(4)],
        b"shdr": [
            struct.pack("<20sIIIIIBbHH", f"s{n}".encode(), bounds[n], bounds[n + 1], 0, 0, 16000, 60, 0, 0, 1)
            for n in range(len(data))
        ]
        + [bytes(46)],
    }
    sound = b"sdta" + _chunk(b"smpl", b"".join(data))
    body = b"sfbk" + _chunk(b"LIST", sound)
    body += _chunk(b"LIST", b"pdta" + b"".join(_chunk(name, b"".join(rows)) for name, rows in tables.items()))
    path.write_bytes(_chunk(b"RIFF", body))
    return path


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
