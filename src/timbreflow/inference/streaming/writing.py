"""From generated samples to a file: level, length, scratch space, and refusals before the work."""

import math
import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
        own = _identities(path)
        for key in own:
            if key in taken:
                same = "" if taken[key] == path else f" (the same file as {taken[key]})"
                raise TimbreflowError(f"{path} is an input{same} and would be overwritten; name another output file.")
            if written.get(key) == path:
                raise TimbreflowError(f"{path} is named for two outputs; give one of them another name.")
            if key in written:
                raise TimbreflowError(f"{path} and {written[key]} are the same file; remove one of the links.")
        written |= dict.fromkeys(own, path)


def _identities(path: Path) -> list[Hashable]:
    """What two names of one file share: the place that links lead to, and the file's own number where it exists."""
    place = os.path.realpath(path)
    try:
        state = os.stat(place)
    except OSError:
        return [place]
    return [place, (state.st_dev, state.st_ino)]


def exactly(blocks: Iterable[np.ndarray], n_samples: int | Callable[[], int]) -> Iterator[np.ndarray]:
    """The blocks, cut or filled up with zeros to `n_samples` in all: resampling there and back rounds twice.

    Args:
        blocks: [n] each.
        n_samples: of the whole; a function where it is known only in the end, as in `overlap_add`.
    """
    length = n_samples if callable(n_samples) else lambda: n_samples
    given = 0
    for block in blocks:
        part = block[: length() - given]
        given += len(part)
        yield part
    yield np.zeros(length() - given, dtype=np.float32)


def recut(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Blocks [..., n] of any lengths as blocks of `size` samples, the last one shorter."""
    held: list[np.ndarray] = []
    n_held = 0
    for block in blocks:
        held.append(block)
        n_held += block.shape[-1]
        if n_held >= size:
            whole = np.concatenate(held, axis=-1)
            for start in range(0, n_held - size + 1, size):
                yield whole[..., start : start + size]
            rest = n_held % size
            held, n_held = [whole[..., n_held - rest :]], rest
    if n_held:
        yield np.concatenate(held, axis=-1)


@dataclass(frozen=True)
class Wet:
    """What a model made of the content, or of one of its channels, before it is written.

    Args:
        blocks: [n] float32 at the content's rate; as many samples as the content has.
        gain: factor that brings it to its level.
        channels: of the result that it is heard in.
    """

    blocks: Iterable[np.ndarray]
    gain: float
    channels: Sequence[int]


def finished(content: Recording, wets: Sequence[Wet], *, mix: float, side: float | None) -> Iterator[np.ndarray]:
    """The result, sample for sample beside the content.

    Args:
        content: what was transferred.
        wets: together of all channels that sound.
        mix: share of the wets; the rest is the content.
        side: factor of what each channel of the content differs from their mean by, which is added; None adds nothing.

    Yields:
        [C, n] blocks, or [1, n] where all channels are the same; before the limiter.
    """
    same = len(wets) == 1 and len(wets[0].channels) == content.channels and side is None
    if same and mix == 1:
        for block in wets[0].blocks:
            yield (block * np.float32(wets[0].gain))[None]
        return
    streams = [recut(wet.blocks, BLOCK) for wet in wets]
    for dry in recut(content.blocks(), BLOCK):
        made = np.zeros_like(dry)
        for wet, stream in zip(wets, streams, strict=True):
            made[list(wet.channels)] = next(stream) * np.float32(wet.gain)
        if side is not None:
            made += np.float32(side) * (dry - dry.mean(axis=0))
        yield made if mix == 1 else np.float32(mix) * made + np.float32(1 - mix) * dry


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


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """A hidden folder on the output's own disk, which goes away again."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".timbreflow-") as folder:
        yield Path(folder)


def read_back(waiting: BinaryIO) -> Iterator[np.ndarray]:
    """The float32 samples of a scratch file, from its start, in blocks [n]."""
    waiting.seek(0)
    while data := waiting.read(4 * BLOCK):
        yield np.frombuffer(data, dtype=np.float32)


def require_writable(out_path: Path, sample_rate: int, channels: int, *, like: str) -> None:
    """Find out before minutes of work whether the format takes the content's rate, channels and subtype.

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
            with AudioWriter(trial, sample_rate, channels, like=like) as writer:
                writer.write(np.zeros((channels, 1), dtype=np.float32))
        except TimbreflowError as error:
            raise TimbreflowError(
                f"{out_path} cannot have the content's {channels} channels at {sample_rate} Hz; "
                "name a .wav file instead."
            ) from error
