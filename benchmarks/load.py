"""How fast batches of triples are read, beside the way of 2021, and how long a training step waits for them.

Three figures in one run, on data that the house's own stages render below --data:

- `ours`: random batches of 16 triples from memory-mapped mels by the loader of the trainings, in this process on one
  core: three normalised log-mels, the piano roll and the timbre of each;
- `way_of_2021`: the same three clips of each triple as 24-bit WAV (as the 2021 renders were) through `librosa.load` and
  `librosa.stft`, magnitude, log(1 + x), one thread; `way_of_2021_16_bit` the same with 16-bit files. They take turns
  with ours, over the same triples, with files in memory (the page cache);
- `wait`: share of the time in which a training would wait for data, with the loader as the trainings have it (a thread
  that reads ahead), when each step is a pause of 5 ms. Beside it the same with loader processes, and without reading
  ahead.

Each way runs in one thread. Its seconds are those of the core that it used (`time.process_time`), which other work on
the machine changes little; `elapsed` gives the figures by the clock on the wall. `ratio_to_memory_copy` compares with a
plain copy of what is read and written. Figures are medians; the last line is JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import librosa
import numpy as np
import soundfile
import torch
from small_data import prepare, small_params

from timbreflow.data.audio_triples import AudioTripleDataset
from timbreflow.data.sampling import StepSampler, make_loader
from timbreflow.data.triples import TripleBatch, TripleDataset
from timbreflow.stages.layout import Layout

SEED = 0


def main() -> int:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="timbreflow-benchmark-") as folder:
        root = options.data or Path(folder)
        _say("rendering and extracting")
        layout = prepare(root, small_params(options.triples))
        result = measure(layout, Path(folder), options)
    print(json.dumps(result))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Reading batches of triples, beside the way of 2021.")
    parser.add_argument("--triples", type=int, default=200, help="triples rendered (%(default)s)")
    parser.add_argument("--batches", type=int, default=100, help="batches of each pass of ours (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="triples a batch (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each way (%(default)s)")
    parser.add_argument("--pause", type=float, default=5.0, help="ms that stand for a training step (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of the wait (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder that keeps the rendered data for the next time")
    options = parser.parse_args()
    if min(options.triples, options.batches, options.batch_size, options.repeats, options.workers) < 1:
        parser.error("--triples, --batches, --batch-size, --repeats and --workers must be 1 or more")
    return options


def measure(layout: Layout, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of all ways.

    Args:
        layout: rendered and extracted triples.
        folder: for the WAV files.
        options: of the command line.
    """
    size = options.batch_size
    stored = TripleDataset(layout.mels, layout.audio, split="train")
    _say("writing the WAV files of 2021")
    wavs = {subtype: _write_wavs(layout, folder, subtype) for subtype in ("PCM_24", "PCM_16")}
    loader = _batches(stored, size)
    next(loader)  # opens the files
    for files in wavs.values():
        _way_of_2021(files, [0])
    order = iter(StepSampler(len(stored), size, SEED))
    core: dict[str, list[float]] = {name: [] for name in ("ours", "copy", *wavs)}
    elapsed: dict[str, list[float]] = {name: [] for name in core}

    def note(name: str, triples: int, work: Callable[[], object]) -> None:
        began = time.process_time(), time.perf_counter()
        work()
        core[name].append((time.process_time() - began[0]) / triples)
        elapsed[name].append((time.perf_counter() - began[1]) / triples)

    example = next(loader)
    for repeat in range(options.repeats):
        note("ours", options.batches * size, lambda: _touch(islice(loader, options.batches)))
        note("copy", options.batches * size, lambda: _copy(example, options.batches))
        items = next(order)
        for subtype, files in wavs.items():
            note(subtype, size, partial(_way_of_2021, files, items))
        figures = ", ".join(f"{name} {1000 * taken[-1]:.3f}" for name, taken in core.items())
        _say(f"pass {repeat + 1} of {options.repeats}, ms of a core for a triple: {figures}")
    return {
        "triples": len(stored),
        "batch_size": size,
        "repeats": options.repeats,
        "shape": list(stored[0].target.shape),
        **_figures(core),
        "elapsed": _figures(elapsed),
        "wait": {
            "pause_ms": options.pause,
            "workers": options.workers,
            "share": _wait(_batches(stored, size), options),
            "share_with_processes": _wait(_batches(stored, size, options.workers), options),
            "share_without_reading_ahead": _wait(_one_by_one(stored, size), options),
        },
    }


def _figures(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Medians and ratios of seconds a triple."""
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "triples_per_second": round(1 / median["ours"], 1),
        "triples_per_second_2021": round(1 / median["PCM_24"], 1),
        "triples_per_second_2021_16_bit": round(1 / median["PCM_16"], 1),
        "ms_per_clip_2021": round(1000 * median["PCM_24"] / 3, 3),
        "ratio_to_2021": round(median["PCM_24"] / median["ours"], 2),
        "ratio_to_2021_16_bit": round(median["PCM_16"] / median["ours"], 2),
        "ratio_to_memory_copy": round(median["copy"] / median["ours"], 3),
    }


def _batches(dataset: TripleDataset, size: int, workers: int = 0) -> Iterator[TripleBatch]:
    device = "cuda" if workers and torch.cuda.is_available() else "cpu"
    return iter(make_loader(dataset, size, seed=SEED, workers=workers, device=device))


def _touch(batches: Iterable[TripleBatch]) -> None:
    """Look at one value of each array, so that nothing can be put off."""
    for batch in batches:
        for tensor in vars(batch).values():
            tensor.flatten()[0].item()


def _copy(batch: TripleBatch, n: int) -> None:
    """Copy what n batches read, in half precision, and what they give."""
    read = torch.empty(3 * batch.target.numel(), dtype=torch.float16)
    wrote = torch.empty(3, *batch.target.shape)
    for _ in range(n):
        read.clone()
        wrote.clone()


def _write_wavs(layout: Layout, folder: Path, subtype: str) -> list[tuple[Path, Path, Path]]:
    """The clips of each triple, content, style and target, as files of their own."""
    features = TripleDataset(layout.mels, layout.audio, split="train").features
    sound = AudioTripleDataset(layout.audio, features, split="train")
    written = []
    for item in range(len(sound)):
        triple = sound[item]
        paths = []
        for role in ("content", "style", "target"):
            path = folder / f"{item}-{role}-{subtype}.wav"
            soundfile.write(path, getattr(triple, role).numpy(), sound.features.sample_rate, subtype=subtype)
            path.read_bytes()  # into the page cache
            paths.append(path)
        written.append((paths[0], paths[1], paths[2]))
    return written


def _way_of_2021(files: list[tuple[Path, Path, Path]], items: list[int]) -> None:
    """librosa.load and librosa.stft of the clips of some triples, stacked as a batch."""
    spectra = []
    for item in items:
        for path in files[item]:
            audio, _ = librosa.load(path, sr=None)
            spectra.append(np.log1p(np.abs(librosa.stft(audio, n_fft=2048, win_length=2000, hop_length=500))))
    np.stack(spectra)


def _one_by_one(dataset: TripleDataset, size: int) -> Iterator[TripleBatch]:
    return (dataset.collate(dataset.__getitems__(items)) for items in StepSampler(len(dataset), size, SEED))


def _wait(loader: Iterator[TripleBatch], options: argparse.Namespace) -> float:
    """Median share of the time that a loop of pauses spends waiting for its batches."""
    for _ in range(2 * options.workers + 2):  # the first batches come when the workers have started
        next(loader)
    shares = []
    for _ in range(options.repeats):
        waited = 0.0
        began = time.perf_counter()
        for _ in range(options.batches):
            asked = time.perf_counter()
            batch = next(loader)
            waited += time.perf_counter() - asked
            del batch
            time.sleep(options.pause / 1000)
        shares.append(waited / (time.perf_counter() - began))
    return round(statistics.median(shares), 4)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
