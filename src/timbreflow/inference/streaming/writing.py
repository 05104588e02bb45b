"""From generated samples to a file: level, length, scratch space, and refusals before the work."""

import math
import os
import tempfile
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from timbreflow.audio.files import FORMATS, AudioWriter
from timbreflow.errors import TimbreflowError
from timbreflow.inference.streaming.recordings import BLOCK, LOUDEST_PEAK, Recording

KNEE = 0.8
"""Peaks above it are limited to `LOUDEST_PEAK`: one outlier must not make all of a recording quiet."""


def output_gain(content: Recording, square_sum: float) -> float:
    """Factor that gives the output the content's RMS.

    Args:
        content: whose level is wanted.
        square_sum: of the output's samples.

    Raises:
        TimbreflowError: the output holds NaN or infinity.
    """
    if not math.isfinite(square_sum):
        raise TimbreflowError(
            f"The model made NaN or infinite samples of {content.name}; try a lower temperature or another model."
        )
    rms = math.sqrt(square_sum / content.n_samples)
    # An output of digital silence has no level that could be matched.
    return 1.0 if rms < 1e-9 else content.rms / rms


def limited(audio: np.ndarray) -> np.ndarray:
    """Samples beyond `KNEE` bent smoothly below `LOUDEST_PEAK`; all others as they are."""
    size, room = np.abs(audio), LOUDEST_PEAK - KNEE
    bent = np.sign(audio) * (KNEE + room * np.tanh((size - KNEE) / room))
    return np.where(size > KNEE, bent, audio).astype(np.float32)


def require_no_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse outputs that would replace an input, or each other, under whatever name or link.

    Raises:
        TimbreflowError: they would.
    """
    taken = {key: path for path in inputs for key in _identities(path)}
    written: dict[Hashable, Path] = {}
    for path in outputs:
        for key in _identities(path):
            if key in taken:
                same = "" if taken[key] == path else f" (the same file as {taken[key]})"
                raise TimbreflowError(f"{path} is an input{same} and would be overwritten; name another output file.")
            if written.setdefault(key, path) != path:
                raise TimbreflowError(f"{path} and {written[key]} are the same file; remove one of the links.")


def _identities(path: Path) -> list[Hashable]:
    """What two names of one file share: the place that links lead to, and the file's own number where it exists."""
    place = os.path.realpath(path)
    try:
        state = os.stat(place)
    except OSError:
        return [place]
    return [place, (state.st_dev, state.st_ino)]


def exactly(blocks: Iterable[np.ndarray], n_samples: int) -> Iterator[np.ndarray]:
    """The blocks, cut or filled up with zeros to `n_samples` in all: resampling there and back rounds twice."""
    left = n_samples
    for block in blocks:
        yield block[:left]
        left -= len(block[:left])
    yield np.zeros(left, dtype=np.float32)


def scratch_beside(out_path: Path) -> BinaryIO:
    """An unnamed file on the output's own disk.

    Raises:
        TimbreflowError: its folder cannot be written to.
    """
    try:
        out_path.parent.mkdir(parents=True, exist_ok=True)
        return cast(BinaryIO, tempfile.TemporaryFile(dir=out_path.parent))
    except OSError as error:
        raise TimbreflowError(
            f"{out_path} cannot be written ({error.strerror}); name a file in a folder that you may write to."
        ) from error


def read_back(waiting: BinaryIO) -> Iterator[np.ndarray]:
    """The float32 samples of a scratch file, from its start, in blocks [n]."""
    waiting.seek(0)
    while data := waiting.read(4 * BLOCK):
        yield np.frombuffer(data, dtype=np.float32)


def require_writable(out_path: Path, content: Recording) -> None:
    """Find out before minutes of work whether the format takes the content's rate and channels.

    Raises:
        TimbreflowError: it does not, or the suffix is none we write, or a file of this name is write-protected.
    """
    if out_path.exists() and not (out_path.is_file() and os.access(out_path, os.W_OK)):
        raise TimbreflowError(f"{out_path} is write-protected or no plain file; name another output file.")
    if out_path.suffix.lower() not in FORMATS:
        raise TimbreflowError(
            f"{out_path} does not end in {', '.join(FORMATS)}; name the output file with one of them."
        )
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / f"trial{out_path.suffix.lower()}"
        try:
            with AudioWriter(trial, content.sample_rate, content.channels, like=content.subtype) as writer:
                writer.write(np.zeros((content.channels, 1), dtype=np.float32))
        except TimbreflowError as error:
            raise TimbreflowError(
                f"{out_path} cannot have the content's {content.channels} channels at {content.sample_rate} Hz; "
                "name a .wav file instead."
            ) from error
