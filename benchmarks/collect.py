"""How fast a large archive of MIDI files becomes note tables, in how much memory, beside bare symusic and PrettyMIDI.

The archive is a .tar.gz of nested folders, as Lakh's: real pieces (those of the corpora that `timbreflow corpus fetch`
brought here, and scores of music21), each transposed and re-timed until there are enough. In turn, so that a busy
machine slows all of them alike:

- `ours`: `timbreflow collect` on the archive: unpacked, checked, parsed, twins dropped, note tables written;
- `symusic`: one process that unpacks the same archive and calls `symusic.Score.from_midi` on each file, no more;
  the time inside of that call alone is `symusic_in_memory`.

`way_of_2021` is `pretty_midi.PrettyMIDI` of each file of a sample, and says how many of them hold the same notes in our
tables. Memory is the sum of the peaks (VmHWM) of all processes of ours, in fresh ones, at a tenth of the files and at
all of them. The last line is JSON. Ratios are files a second of ours over those of the other way, which is always one
process: those that begin with `clock_` count seconds on the clock, so our workers count for us and other work on the
machine against us; those that begin with `cpu_` count the CPU time of all processes, which is a core against a core.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Before numpy is imported, here and in the processes: one core each.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
import pretty_midi
import psutil
import symusic

from timbreflow.config import load_params
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file
from timbreflow.notes.collect import CollectConfig
from timbreflow.notes.pieces import Piece, Reject
from timbreflow.notes.reading import read_piece
from timbreflow.notes.sources.archives import Item, Share, read_items
from timbreflow.notes.sources.catalogue import CATALOGUE
from timbreflow.notes.sources.files import containers
from timbreflow.stages import collect_midi
from timbreflow.stages.layout import Layout
from timbreflow.workers import available_cores

ROOT = Path(__file__).resolve().parents[1]
SCORES = ("music21/haydn", "music21/mozart", "music21/beethoven", "music21/joplin", "music21/schubert")
LEAST_BYTES = 10_000  # of a piece; Lakh's files have some 35 kB
SAMPLE = 60  # files for the way of 2021, 50 ms each


def main() -> int:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="timbreflow-benchmark-") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        try:
            print(json.dumps(measure(work, options.files, options.workers, options.seed, options.repeats)))
        except TimbreflowError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of collecting beside bare symusic and PrettyMIDI.")
    parser.add_argument("--files", type=int, default=20_000, help="MIDI files in the archive (%(default)s)")
    parser.add_argument("--workers", type=int, default=available_cores(), help="reading processes (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each way (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of transpositions and tempos (%(default)s)")
    parser.add_argument("--work", type=Path, help="folder that keeps the archives for the next time")
    options = parser.parse_args()
    if options.files < 10 or options.workers < 1 or options.repeats < 1:
        parser.error("--files must be 10 or more, --workers and --repeats positive")
    return options


def measure(work: Path, n_files: int, workers: int, seed: int, repeats: int) -> dict[str, Any]:
    """Medians of all ways.

    Args:
        work: folder for archives and tables; archives that are there are used again.
        n_files: in the large archive.
        workers: reading processes of ours.
        seed: of the archive.
        repeats: passes of each way, interleaved.
    """
    archives = {n: work / f"midi-{n}-{seed}.tar.gz" for n in (n_files // 10, n_files)}
    if not all(path.exists() for path in archives.values()):
        _say("reading pieces")
        pieces = list(_pieces())
        for n, path in archives.items():
            _say(f"making {n} files of {len(pieces)} pieces")
            _make_archive(path, pieces, n, seed)
    config = load_params(ROOT / "params.yaml").collect_midi
    passes: dict[str, Callable[[], dict[str, float]]] = {
        "ours_tenth": lambda: _fresh(_ours, archives[n_files // 10], work / "tables", config, workers),
        "ours": lambda: _fresh(_ours, archives[n_files], work / "tables", config, workers),
        "symusic": lambda: _fresh(_symusic, archives[n_files]),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in passes}
    for repeat in range(repeats):
        for name, one in passes.items():
            found[name].append(one())
        figures = ", ".join(f"{name} {results[-1]['seconds']:.1f} s" for name, results in found.items())
        _say(f"pass {repeat + 1} of {repeats}: {figures}")
    median = {
        name: {key: statistics.median(one[key] for one in results) for key in results[0]}
        for name, results in found.items()
    }
    _say("the way of 2021")
    sample = _fresh(_way_of_2021, archives[n_files], config)
    ours, bare = median["ours"], median["symusic"]
    return {
        "files": n_files,
        "workers": workers,
        "repeats": repeats,
        "mean_bytes": round(bare["bytes"] / n_files),
        "mean_notes": round(ours["notes"] / ours["pieces"]),
        "pieces": int(ours["pieces"]),
        "archive_mb": round(archives[n_files].stat().st_size / 1e6, 1),
        "tables_mb": round(ours["tables_mb"], 1),
        "median_seconds": {
            "ours": round(ours["seconds"], 2),
            "symusic": round(bare["seconds"], 2),
            "symusic_in_memory": round(bare["parsing"], 2),
        },
        "median_cpu_seconds": {"ours": round(ours["cpu"], 2), "symusic": round(bare["cpu"], 2)},
        "files_per_second": round(n_files / ours["seconds"]),
        "cpu_ms_per_file": round(1000 * ours["cpu"] / n_files, 3),
        "clock_ratio_to_one_symusic_process": round(bare["seconds"] / ours["seconds"], 3),
        "clock_ratio_to_symusic_in_memory": round(bare["parsing"] / ours["seconds"], 3),
        "cpu_ratio_to_symusic": round(bare["cpu"] / ours["cpu"], 3),
        "clock_speedup_over_2021": round(sample["seconds_per_file"] * n_files / ours["seconds"], 1),
        "cpu_speedup_over_2021": round(sample["cpu_per_file"] * n_files / ours["cpu"], 1),
        "same_notes_as_pretty_midi": f"{sample['same']:.0f} of {sample['files']:.0f}",
        "same_but_note_ends": f"{sample['same_but_ends']:.0f} of {sample['files']:.0f}",
        "peak_memory_mb": {
            str(n_files // 10): round(median["ours_tenth"]["peak_mb"]),
            str(n_files): round(ours["peak_mb"]),
        },
        "peak_memory_ratio": round(ours["peak_mb"] / median["ours_tenth"]["peak_mb"], 3),
    }


def _fresh(way: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Run one pass in a process of its own, with memory of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(way, *arguments).result()


def _ours(archive: Path, out: Path, config: CollectConfig, workers: int) -> dict[str, float]:
    began, worked = time.perf_counter(), time.process_time()
    report = collect_midi.collect([str(archive)], out, config, root=ROOT, workers=workers)
    seconds = time.perf_counter() - began
    worked = time.process_time() - worked
    readers = psutil.Process().children(recursive=True)
    tables_mb = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    shutil.rmtree(out)
    return {
        "seconds": seconds,
        "cpu": worked + sum(sum(reader.cpu_times()[:2]) for reader in readers),
        "peak_mb": sum(_peak_mb(pid) for pid in (os.getpid(), *(reader.pid for reader in readers))),
        "pieces": report.metrics["n_pieces"],
        "notes": report.metrics["n_notes"],
        "tables_mb": tables_mb,
    }


def _peak_mb(pid: int) -> float:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def _symusic(archive: Path) -> dict[str, float]:
    began, worked, parsing, n_bytes = time.perf_counter(), time.process_time(), 0.0, 0
    for data in _members(archive):
        n_bytes += len(data)
        start = time.perf_counter()
        symusic.Score.from_midi(data)
        parsing += time.perf_counter() - start
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "parsing": parsing, "cpu": cpu, "bytes": n_bytes}


def _way_of_2021(archive: Path, config: CollectConfig) -> dict[str, float]:
    files = list(islice(_members(archive), SAMPLE))
    began, worked = time.perf_counter(), time.process_time()
    songs = [pretty_midi.PrettyMIDI(io.BytesIO(data)) for data in files]
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    same, same_but_ends = 0, 0
    for song, data in zip(songs, files, strict=True):
        notes = read_piece(Item("sample.mid", data, len(data)), config.limits).notes
        ours = np.stack([notes.onset, notes.pitch, notes.velocity, notes.duration], axis=1).astype(np.float64)
        theirs = np.array(
            [
                (note.start, note.pitch, note.velocity, note.end - note.start)
                for part in song.instruments
                for note in part.notes
            ]
        )
        if len(ours) == len(theirs):
            difference = np.abs(_sorted(ours) - _sorted(theirs)) > 2e-3
            same += not difference.any()
            same_but_ends += not difference[:, :3].any()
    n_files = len(files)
    return {
        "seconds_per_file": seconds / n_files,
        "cpu_per_file": cpu / n_files,
        "same": same,
        "same_but_ends": same_but_ends,
        "files": n_files,
    }


def _sorted(notes: np.ndarray) -> np.ndarray:
    """Rows of onset, pitch, velocity and duration; what is within 2 ms counts as one onset."""
    return notes[np.lexsort((notes[:, 3], notes[:, 2], notes[:, 1], np.rint(notes[:, 0] * 500)))]


def _members(archive: Path) -> Iterator[bytes]:
    with tarfile.open(archive, "r|*") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                yield file.read()


def _pieces() -> Iterator[bytes]:
    """Real pieces as MIDI files of at least LEAST_BYTES."""
    config = load_params(ROOT / "params.yaml").collect_midi
    layout = Layout(ROOT)
    fetched = [
        corpus.name
        for corpus in CATALOGUE.values()
        if corpus.kind == "midi" and corpus.manager == "debian" and (layout.corpora / corpus.name).exists()
    ]
    for source in (*fetched, *SCORES):
        for container in containers(source, root=ROOT, corpora=layout.corpora):
            for item in read_items(container, max_bytes=config.max_bytes, share=Share()):
                try:
                    piece = read_piece(item, config.limits)
                except Reject:
                    continue
                data = item.data if item.data[:4] == b"MThd" else _midi(piece)
                if len(data) >= LEAST_BYTES:
                    yield data


def _midi(piece: Piece) -> bytes:
    """A score as a MIDI file."""
    song = pretty_midi.PrettyMIDI(resolution=480)
    for track in piece.tracks:
        part = pretty_midi.Instrument(max(track.program, 0), track.is_drum)
        columns = (track.notes.onset, track.notes.duration, track.notes.pitch, track.notes.velocity)
        for onset, duration, pitch, velocity in zip(*(column.tolist() for column in columns), strict=True):
            part.notes.append(pretty_midi.Note(velocity, pitch, onset, onset + duration))
        song.instruments.append(part)
    file = io.BytesIO()
    song.write(file)
    return file.getvalue()


def _make_archive(path: Path, pieces: list[bytes], n_files: int, seed: int) -> None:
    """A .tar.gz of distinct variations in folders of folders, named by their sha256."""
    generator = random.Random(seed)
    with atomic_file(path) as temporary, tarfile.open(temporary, "w:gz", compresslevel=6) as tar:
        for number in range(n_files):
            data = _variation(pieces[number % len(pieces)], generator)
            name = hashlib.sha256(data).hexdigest()[:32]
            member = tarfile.TarInfo(f"lmd_full/{name[0]}/{name[1]}/{name}.mid")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _variation(data: bytes, generator: random.Random) -> bytes:
    """A piece up to half an octave higher or lower, and up to a quarter faster or slower."""
    score: Any = symusic.Score.from_midi(data)
    pitched = [track for track in score.tracks if not track.is_drum and len(track.notes)]
    pitches = [track.notes.numpy()["pitch"] for track in pitched]
    lowest, highest = min(int(p.min()) for p in pitches), max(int(p.max()) for p in pitches)
    shift = generator.randint(max(-6, -lowest), min(6, 127 - highest))
    for track in pitched:
        track.shift_pitch(shift, inplace=True)
    tempo = generator.uniform(0.8, 1.25)
    if not len(score.tempos):
        score.tempos.append(symusic.Tempo(0, 120.0))
    for change in score.tempos:
        change.mspq = round(change.mspq * tempo)
    return bytes(score.dumps_midi())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
