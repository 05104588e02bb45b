"""Tars packed by gzip, read as a stream as far as they go."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from timbreflow.notes.sources.archives import Share, read_items
from timbreflow.notes.sources.files import Container

DATA = np.random.default_rng(0).integers(0, 64, 5_000, np.uint8).tobytes()


def tar(n_files: int) -> bytes:
    """A tar of equal files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(n_files):
            member = tarfile.TarInfo(f"{number}.mid")
            member.size = len(DATA)
            archive.addfile(member, io.BytesIO(DATA))
    return file.getvalue()


def read(path: Path, data: bytes) -> tuple[int, bool]:
    """Number of whole files, and whether an error follows them."""
    path.write_bytes(data)
    items = list(read_items(Container(path.name, str(path), "tar"), max_bytes=10_000, share=Share()))
    whole = [item for item in items if item.reject is None]
    assert all(item.data == DATA for item in whole)
    return len(whole), len(items) > len(whole)


@pytest.mark.parametrize("behind", [b"", b"\x1f", bytes(700), b"text"])
def test_all_members_of_a_gzip_are_one_stream_and_what_follows_is_left_out(behind: bytes, tmp_path: Path) -> None:
    whole = tar(60)
    packed = gzip.compress(whole[:70_001]) + gzip.compress(whole[70_001:]) + behind
    assert read(tmp_path / "a.tar.gz", packed) == (60, False)


def test_a_file_that_was_cut_is_read_to_where_it_was_cut(tmp_path: Path) -> None:
    packed = gzip.compress(tar(60))
    for length in (0, 5, 20_000, len(packed) // 2, len(packed) * 9 // 10):
        n_files, error = read(tmp_path / "a.tar.gz", packed[:length])
        assert error
        assert n_files >= 60 * length / len(packed) - 6
