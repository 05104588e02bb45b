"""Audio shards: uncompressed tars of FLAC whose bytes depend on their clips alone, read clip by clip at random."""

import io
import itertools
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from timbreflow.audio.files import decode_audio
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file


@dataclass(frozen=True)
class ShardEntry:
    """Where a clip lies inside its tar.

    Args:
        clip_id: name of the member without `.flac`.
        offset: first byte of the FLAC.
        nbytes: length of the FLAC, in bytes.
    """

    clip_id: str
    offset: int
    nbytes: int


def write_shard(path: Path, clips: Iterable[tuple[str, bytes]]) -> list[ShardEntry]:
    """Write a tar of `<clip_id>.flac` atomically: sorted names, zero times and owners, so equal clips give equal bytes.

    Args:
        path: the tar.
        clips: (clip_id, FLAC bytes) in any order.

    Returns:
        One entry a clip, sorted by clip_id.

    Raises:
        TimbreflowError: two clips share an id.
    """
    ordered = sorted(clips)
    for (first, _), (second, _) in itertools.pairwise(ordered):
        if first == second:
            raise TimbreflowError(f"{path} would hold the clip {first} twice; give every clip its own id.")
    entries: list[ShardEntry] = []
    with atomic_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for clip_id, data in ordered:
            member = tarfile.TarInfo(f"{clip_id}.flac")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            entries.append(ShardEntry(clip_id=clip_id, offset=tar.offset - padded, nbytes=len(data)))
    return entries


class AudioShards:
    """Random access to the clips of a folder of shards; holds no open file, so it may be pickled and shared.

    Args:
        root: folder that the manifest's shard paths are relative to (data/audio).
        sample_rate: rate that the clips must have, in Hz; None takes any.
    """

    def __init__(self, root: Path, *, sample_rate: int | None = None) -> None:
        self.root = Path(root)
        self.sample_rate = sample_rate

    def read_bytes(self, shard: str, offset: int, nbytes: int) -> bytes:
        """The FLAC of one clip.

        Raises:
            TimbreflowError: the shard is missing or shorter than the manifest says.
        """
        path = self.root / shard
        try:
            with open(path, "rb") as file:
                file.seek(int(offset))
                data = file.read(int(nbytes))
        except FileNotFoundError as error:
            raise TimbreflowError(f"{path} is missing; run render_triples or `dvc pull` again.") from error
        if len(data) != nbytes:
            raise TimbreflowError(f"{path} is shorter than its manifest says; delete it and run render_triples again.")
        return data

    def read(self, shard: str, offset: int, nbytes: int) -> np.ndarray:
        """Decode one clip: [N] float32.

        Raises:
            TimbreflowError: the shard is missing, cut or corrupt, or has another sample rate.
        """
        name = f"{self.root / shard} at byte {offset}"
        audio, rate = decode_audio(self.read_bytes(shard, offset, nbytes), name=name)
        if self.sample_rate is not None and rate != self.sample_rate:
            raise TimbreflowError(f"{name} is at {rate} Hz, not {self.sample_rate} Hz; run render_triples again.")
        return audio[0]
