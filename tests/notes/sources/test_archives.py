"""Gzip read as a stream, as far as it goes."""

import gzip
import io

import numpy as np
import pytest

from timbreflow.notes.sources.archives import Unpacked

DATA = np.random.default_rng(0).integers(0, 64, 300_000, np.uint8).tobytes()


def unpacked(packed: bytes, size: int = 10_240) -> bytes:
    stream = Unpacked(io.BytesIO(packed))
    parts = []
    while part := stream.read(size):
        assert len(part) <= size
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("size", [1_000, 10_240, 1_000_000])
@pytest.mark.parametrize("behind", [b"", b"\x1f", bytes(700), b"text"])
def test_all_members_are_one_stream_and_what_follows_is_left_out(size: int, behind: bytes) -> None:
    assert unpacked(gzip.compress(DATA) + gzip.compress(DATA[:5]) + behind, size) == DATA + DATA[:5]


def test_a_file_that_was_cut_ends_where_it_was_cut() -> None:
    packed = gzip.compress(DATA)
    for length in (0, 5, 20_000, len(packed) // 2, len(packed) - 3):
        found = unpacked(packed[:length])
        assert DATA.startswith(found)
        assert len(found) >= len(DATA) * (length - 5_000) / len(packed)
