"""Music files of any kind to pieces, in a process that only reads, so that no file hangs or fills who started it.

The kernel ends it when a file takes too long, whatever the parser does then; its memory is limited; where it dies,
`Reading` knows on which file. It is started as a program, not by multiprocessing, since the workers of Dask may have no
such children. It ends with the process that started it, because its pipe does.
"""

import gzip
import io
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.abc import MetaPathFinder
from itertools import accumulate
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO

from timbreflow.files import atomic_directory
from timbreflow.notes import compiled
from timbreflow.notes.pieces import Piece, ReadLimits, Reject
from timbreflow.notes.readers.abc_tunes import read_abc
from timbreflow.notes.readers.kern import read_kern
from timbreflow.notes.readers.midi import read_midi
from timbreflow.notes.readers.musicxml import read_musicxml
from timbreflow.notes.sources.archives import Item
from timbreflow.notes.sources.files import MIDI_SUFFIXES, clean_text
from timbreflow.notes.writer import PartRows

_COMMAND = [sys.executable, "-P", "-m", "timbreflow.notes.reading"]
_GZIP = b"\x1f\x8b"
_BETWEEN_FILES = -1
_WALL_FACTOR = 30  # a parser that waits, or a machine that swaps, is given more time than one that computes
# One thread each, and memory that goes back to the system when it is free.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}


def read_piece(item: Item, limits: ReadLimits) -> Piece:
    """Read one music file, its kind told by its first bytes, else by its name.

    Raises:
        Reject: it gives no piece, with the reason.
    """
    if item.reject:
        raise item.reject
    limits.check_size(item.size)
    data, name = item.data, item.path.lower()
    if data[:2] == _GZIP:
        data, name = _unpacked(data, limits), name.removesuffix(".gz")
    if data[:4] in (b"MThd", b"RIFF") or name.endswith(MIDI_SUFFIXES):
        return read_midi(data, limits)
    if name.endswith(".abc"):
        return read_abc(data, limits)
    return read_kern(data, limits) if name.endswith(".krn") else read_musicxml(data, limits)


def _unpacked(data: bytes, limits: ReadLimits) -> bytes:
    try:
        # One byte over the limit is enough to know, whatever a bomb would unpack to.
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(data)).read(limits.max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Reject("broken", f"it is not a readable gzip file ({error}).") from error
    limits.check_size(len(unpacked))
    return unpacked


class Reading:
    """The parent's end: one process, which reads a batch, tells the ids of its pieces, and writes their tables.

    Each `send_batch` is answered by a list, the id of each file or None; each `send_folder` by None, or by the error
    that writing met. `receive` raises EOFError when the process died.
    """

    def __init__(self, limits: ReadLimits) -> None:
        self.connection, theirs = Pipe()
        self.limits = limits
        self._box = _shared_file()
        with _shared_file() as file, theirs:
            os.ftruncate(file.fileno(), 8)
            self._progress = mmap.mmap(file.fileno(), 8)
            handles = (theirs.fileno(), file.fileno(), self._box.fileno())
            self._process = subprocess.Popen(
                [*_COMMAND, *map(str, handles)],
                pass_fds=handles,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT},
            )
        with suppress(OSError):  # it died at once, which `receive` will tell
            self.connection.send(limits)

    def send_batch(self, source: str, items: Sequence[Item]) -> None:
        """Have it read some files, whose bytes lie in shared memory: a pipe would cost a sixth of all the work."""
        self._progress[:] = _BETWEEN_FILES.to_bytes(8, "little", signed=True)
        self._box.seek(0)
        self._box.writelines(item.data for item in items)
        self._box.flush()
        self._box.truncate()
        sizes = [len(item.data) for item in items]
        with suppress(OSError):
            self.connection.send((source, [replace(item, data=b"") for item in items], sizes))

    def send_folder(self, folder: Path, duplicates: dict[int, str]) -> None:
        """Have it write the tables of its batch, without `duplicates`: numbers of files to the first one."""
        with suppress(OSError):
            self.connection.send((folder.absolute(), duplicates))  # it may have been started in another folder

    def receive(self) -> list[str | None] | OSError | None:
        """Its next answer."""
        try:
            answer: list[str | None] | OSError | None = self.connection.recv()
        except OSError as error:
            raise EOFError from error
        return answer

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def death(self) -> tuple[int | None, int]:
        """After an EOFError: the number of the file that was being read, or None, and the exit status."""
        status = self._process.wait()
        number = int.from_bytes(self._progress[:], "little", signed=True)
        self.close()
        return None if number == _BETWEEN_FILES else number, status

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._box.close()


def _shared_file() -> IO[bytes]:
    """An unnamed file that a child may inherit; in memory where the system has such (Linux)."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("timbreflow"), "w+b")
    return tempfile.TemporaryFile()


def ran_out_of_time(status: int) -> bool:
    """Whether an exit status is that of a process whose time for a file was over."""
    return status in (-signal.SIGPROF, -signal.SIGALRM)


def main() -> None:
    """The process: reads batches until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends us
    progress = mmap.mmap(int(sys.argv[2]), 8)
    with Connection(int(sys.argv[1])) as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        limits: ReadLimits = connection.recv()
        sys.meta_path.insert(0, _NoPandas())
        compiled.load()
        _limit_memory(limits.max_memory)
        while True:
            source, empty, sizes = connection.recv()
            starts = accumulate(sizes, initial=0)
            items = [
                replace(item, data=os.pread(int(sys.argv[3]), *place))
                for item, *place in zip(empty, sizes, starts, strict=False)
            ]
            read = _read(items, limits, progress)
            connection.send([None if isinstance(piece, Reject) else piece.piece_id for piece in read])
            folder, duplicates = connection.recv()
            connection.send(_write(source, items, read, folder, duplicates))


class _NoPandas(MetaPathFinder):
    """Hides pandas, which pyarrow otherwise imports at its first array, a quarter of a second for nothing."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Refuse pandas, and leave all else to others."""
        del path, target
        if fullname == "pandas":
            raise ImportError("pandas is not needed here")


def _read(items: Sequence[Item], limits: ReadLimits, progress: mmap.mmap) -> list[Piece | Reject]:
    read: list[Piece | Reject] = []
    for number, item in enumerate(items):
        if item.reject:
            read.append(item.reject)
            continue
        progress[:] = number.to_bytes(8, "little")
        _set_timers(limits.max_seconds)
        try:
            read.append(read_piece(item, limits))
        except Reject as reject:
            read.append(reject)
        except MemoryError:
            megabytes = limits.max_memory // 1_000_000
            read.append(Reject("too_large", f"reading it takes more than {megabytes} MB of memory, the limit."))
    _set_timers(0)
    progress[:] = _BETWEEN_FILES.to_bytes(8, "little", signed=True)
    return read


def _set_timers(seconds: float) -> None:
    """Have the kernel end this process after `seconds` of its own work, or many more on the clock; 0 for never."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * _WALL_FACTOR)


def _limit_memory(n_bytes: int) -> None:
    """Allow `n_bytes` beyond what the process has now, where the system can tell and limit it (Linux)."""
    with suppress(OSError, ValueError):
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        limit = int(fields["VmData"].split()[0]) * 1024 + n_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _write(
    source: str, items: Sequence[Item], read: Sequence[Piece | Reject], folder: Path, duplicates: dict[int, str]
) -> OSError | None:
    """Write the tables to `folder`, or not at all; returns what the system refused."""
    rows = PartRows()
    source = clean_text(source)
    for number, (item, piece) in enumerate(zip(items, read, strict=True)):
        path = clean_text(item.path)
        if isinstance(piece, Reject):
            rows.add_reject(source, path, piece.reason, clean_text(piece.detail))
        elif number in duplicates:
            rows.add_reject(source, path, "duplicate", f"it has the same notes as {duplicates[number]}.")
        else:
            rows.add_piece(source, path, piece)
            if piece.remark:
                rows.add_reject(source, path, "incomplete", piece.remark)
    try:
        with atomic_directory(folder) as temporary:
            rows.write(temporary)
    except OSError as error:
        return OSError(error.errno, error.strerror or str(error), str(folder))
    return None


if __name__ == "__main__":
    main()
