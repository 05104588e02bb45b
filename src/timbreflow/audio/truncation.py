"""Telling a sound file that was cut off, such as a broken download, from a whole one.

libsndfile reads such a wav or ogg to its end without a word: what the file's own headers promise is looked at here.
An mp3 promises nothing that could be relied on.
"""

import os
from pathlib import Path
from typing import BinaryIO

STREAMED = 0x7FFF0000
"""Programs that write a wav to a pipe cannot know its length and put this or a larger number into its header."""
LARGEST_OGG_PAGE = 65307
"""27 bytes, 255 lengths, and 255 segments of 255 bytes."""


def is_cut_off(source: Path | BinaryIO, kind: str) -> bool:
    """Whether the file ends before its headers say so.

    Args:
        source: a path, or an open file whose position is kept.
        kind: libsndfile's name of the format; any but WAV, WAVEX and OGG gives False.
    """
    look = {"WAV": _wav_is_cut, "WAVEX": _wav_is_cut, "OGG": _ogg_is_cut}.get(kind)
    if look is None:
        return False
    if isinstance(source, Path):
        with open(source, "rb") as file:
            return look(file)
    position = source.tell()
    try:
        return look(source)
    finally:
        source.seek(position)


def _wav_is_cut(file: BinaryIO) -> bool:
    """Whether the data chunk claims more bytes than follow it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) != b"RIFF":
        return False
    position = 12
    while position + 8 <= size:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return size - position - 8 < length < STREAMED
        position += 8 + length + length % 2
    return False


def _ogg_is_cut(file: BinaryIO) -> bool:
    """Whether the last page is not all there; a file that was cut exactly between two pages passes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LARGEST_OGG_PAGE))
    tail = file.read()
    # Four bytes of sound may spell the mark, hardly with the version that follows it.
    start = tail.rfind(b"OggS\0")
    if start < 0:
        return False
    segments = tail[start + 26 : start + 27]
    lengths = tail[start + 27 : start + 27 + segments[0]] if segments else b""
    return not segments or len(lengths) < segments[0] or len(tail) < start + 27 + segments[0] + sum(lengths)
