"""The files of one shard to the note tables of its parts: read in batches by processes, duplicates dropped in order.

One pass over the files, so that an archive is unpacked once, however many processes read what is in it. A batch becomes
a part, a folder of note tables that is there whole or not at all; a run that was killed unpacks again, which is a tenth
of the work, and reads only the batches whose part is missing. Parts do not depend on the number of processes: which
of two equal ones is kept is decided in the order of the files.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path

import pyarrow.parquet as pq

from timbreflow.errors import TimbreflowError
from timbreflow.notes.pieces import ReadLimits, Reject
from timbreflow.notes.reading import Reading, ran_out_of_time
from timbreflow.notes.sources.archives import Item
from timbreflow.notes.sources.files import clean_text
from timbreflow.notes.tables import parquet_source, table_file

BATCH_FILES = 512
BATCH_BYTES = 8_000_000
_MOST_DEATHS = 3


def part_folders(folder: Path) -> list[Path]:
    """Folders of the parts of a finished shard, in the order of their files."""
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def read_parts(
    source: str, items: Iterable[Item], folder: Path, limits: ReadLimits, *, left_out: Iterable[str], workers: int
) -> None:
    """Read files into parts `00000`, `00001`, … of a folder; those that are there already are kept.

    Args:
        source: name of the source, as in the note tables.
        items: the files; the same ones in the same order each time.
        folder: is made.
        limits: of one file.
        left_out: files to reject, as source/path.
        workers: processes to read with.

    Raises:
        TimbreflowError: a part cannot be written (the disk is full), or the processes are killed from outside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _Shard(source, folder, limits, frozenset(left_out)).run(_batches(items, limits.max_bytes), workers)


@dataclass
class _Part:
    """One batch on its way: files that ended a process once, the ids of its pieces, its duplicates."""

    folder: Path
    items: list[Item]
    suspects: set[int] = field(default_factory=set)
    deaths: int = 0
    ids: list[str | None] | None = None
    duplicates: dict[int, str] | None = None
    reading: Reading | None = None


class _Shard:
    def __init__(self, source: str, folder: Path, limits: ReadLimits, left_out: frozenset[str]) -> None:
        self._source = source
        self._folder = folder
        self._limits = limits
        self._left_out = left_out
        self._first: dict[int, str] = {}  # id -> path of the first file of its kind
        self._in_order: deque[_Part] = deque()  # those whose duplicates are not known yet
        self._busy: list[_Part] = []

    def run(self, batches: Iterator[list[Item]], workers: int) -> None:
        parts = (self._part(number, items) for number, items in enumerate(batches))
        # Unpacking goes on in a thread, a batch ahead, so that an answer is heard while the next files are unpacked.
        with ThreadPoolExecutor(1) as unpacking:
            try:
                coming: Future[_Part | None] | None = unpacking.submit(next, parts, None)
                while coming is not None or self._busy:
                    if coming is not None and len(self._busy) < workers:
                        part = coming.result()
                        coming = None if part is None else unpacking.submit(next, parts, None)
                        if part is not None:
                            self._begin(part)
                    else:
                        self._hear()
            finally:
                for part in self._busy:
                    if part.reading is not None:
                        part.reading.close()

    def _part(self, number: int, items: list[Item]) -> _Part:
        folder = self._folder / f"{number:05d}"
        if folder.exists():
            table = pq.read_table(parquet_source(table_file(folder, "pieces", 0)), columns=["piece_id", "path"])
            ids, paths = (table.column(name).to_pylist() for name in ("piece_id", "path"))
            return _Part(folder, [Item(path, b"", 0) for path in paths], ids=ids)
        if self._left_out:
            for place, item in enumerate(items):
                if f"{clean_text(self._source)}/{clean_text(item.path)}" in self._left_out:
                    items[place] = replace(item, reject=Reject("left_out", "collect_midi.leave_out names it."))
        return _Part(folder, items)

    def _begin(self, part: _Part) -> None:
        self._in_order.append(part)
        if part.ids is None:
            self._busy.append(part)
            self._send(part)
        else:
            self._settle()

    def _send(self, part: _Part) -> None:
        part.reading = _lease(self._limits)
        part.reading.send_batch(self._source, part.items)

    def _hear(self) -> None:
        """Wait for an answer of any process, and do what follows from it."""
        connections = {part.reading.connection: part for part in self._busy if part.reading is not None}
        for connection in wait(list(connections)):
            part = connections[connection]  # type: ignore[index]  # wait is typed for sockets and handles too
            assert part.reading is not None
            try:
                answer = part.reading.receive()
            except EOFError:
                self._died(part)
                continue
            if isinstance(answer, OSError):
                raise TimbreflowError(
                    f"{answer.filename} cannot be written ({answer.strerror}); make room on its disk and start again, "
                    "what is finished is kept."
                )
            if answer is None:
                self._busy.remove(part)
                _give_back(part.reading)
            elif part.duplicates is not None:  # read again after its process died while it wrote
                part.reading.send_folder(part.folder, part.duplicates)
            else:
                part.ids = answer
                self._settle()

    def _settle(self) -> None:
        """Find the duplicates of each part whose forerunners are all known, and have it written."""
        while self._in_order and self._in_order[0].ids is not None:
            part = self._in_order.popleft()
            part.duplicates = {}
            for number, (item, piece_id) in enumerate(zip(part.items, part.ids or (), strict=True)):
                if piece_id is None:
                    continue
                key = int(piece_id, 16)
                if key in self._first:
                    part.duplicates[number] = f"{clean_text(self._source)}: {self._first[key]}"
                else:
                    self._first[key] = clean_text(item.path)
            if part.reading is not None:
                part.reading.send_folder(part.folder, part.duplicates)

    def _died(self, part: _Part) -> None:
        """Blame the file that was being read, at once for its time and else at the second death; read again."""
        assert part.reading is not None
        number, status = part.reading.death()
        if number is None:
            part.deaths += 1
            if part.deaths == _MOST_DEATHS:
                raise TimbreflowError(
                    f"the process that reads {self._source} ended {_MOST_DEATHS} times (status {status}), perhaps for "
                    "memory; start again with fewer workers (TIMBREFLOW_WORKERS), what is finished is kept."
                )
        elif ran_out_of_time(status):
            seconds = self._limits.max_seconds
            reject = Reject("too_slow", f"reading it takes more than {seconds:g} s, the limit.")
            part.items[number] = replace(part.items[number], reject=reject)
        elif number in part.suspects:
            reject = Reject("broken", f"it ended the process that read it, twice (status {status}).")
            part.items[number] = replace(part.items[number], reject=reject)
        else:
            part.suspects.add(number)
        self._send(part)


def _batches(items: Iterable[Item], max_bytes: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    n_bytes = 0
    for item in items:
        # What is too large is told by its size alone.
        batch.append(replace(item, data=b"") if item.size > max_bytes else item)
        n_bytes += len(batch[-1].data)
        if len(batch) == BATCH_FILES or n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


_idle: list[tuple[int, Reading]] = []  # with the process that may use it; starting one takes half a second
_lock = threading.Lock()


def _lease(limits: ReadLimits) -> Reading:
    with _lock:
        for owner, reading in list(_idle):
            if owner == os.getpid() and not reading.alive:
                _idle.remove((owner, reading))
                reading.close()
            elif owner == os.getpid() and reading.limits == limits:
                _idle.remove((owner, reading))
                return reading
    return Reading(limits)


def _give_back(reading: Reading) -> None:
    with _lock:
        _idle.append((os.getpid(), reading))
