"""What a triple costs rendered on the fly, beside the same triple read from disk.

One process on one core; three ways take turns over the same triples, in the same shuffled order. Measured is the time
that the process has the core, so that other work on the machine hardly counts:

- `online_triples`: RenderedTriples: drawn from the note tables, rendered, log-mels;
- `stored_mels`: TripleDataset: memory-mapped half-precision log-mels of extract_mels;
- `stored_sound`: AudioTripleDataset: FLAC of render_triples, decoded, log-mels.

The three are checked to give the same numbers. Files are in the system's cache, so reading costs no waiting for a disk.
Music21's scores, timbres and effects as params.yaml draws them. Medians; the last line is JSON.

    .venv/bin/python benchmarks/online_triples.py
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before numpy is imported: one core.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import numpy as np
import torch
from ruamel.yaml import YAML

from timbreflow.audio.features import FeatureExtractor
from timbreflow.config import Params, parse_params, preset_text
from timbreflow.data.audio_triples import AudioTripleDataset, to_features
from timbreflow.data.mels import read_statistics
from timbreflow.data.rendered_triples import RenderedTriples
from timbreflow.data.renderer import RenderInputs
from timbreflow.data.triples import TripleBatch, TripleDataset
from timbreflow.errors import TimbreflowError
from timbreflow.files import sha256_file
from timbreflow.rendering.soundfonts import bundled_soundfont
from timbreflow.stages import collect_midi, extract_mels, render_triples
from timbreflow.stages.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
SCORES = ["music21/joplin", "music21/mozart", "music21/haydn", "music21/schubert"]
FONTS = (ROOT / "data/soundfonts/FluidR3_GM.sf2", Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"))
CLIPS = 3

Way = Callable[[int], TripleBatch]


def main() -> int:
    """Measure and print."""
    fonts = (*FONTS, bundled_soundfont())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--soundfont", type=Path, default=next(font for font in fonts if font.is_file()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="timbreflow-benchmark-") as folder:
        print(json.dumps(measure(Layout(Path(folder)), options.soundfont, options.triples, options.repeats)))
    return 0


def measure(layout: Layout, font: Path, n_triples: int, repeats: int) -> dict[str, Any]:
    """Medians over some passes.

    Args:
        layout: of an empty folder.
        font: SoundFont.
        n_triples: in one pass.
        repeats: passes.

    Raises:
        TimbreflowError: the ways do not give the same triples.
    """
    params = _params(font, n_triples)
    _store(params, layout, font)
    ways = _ways(params, layout, n_triples)
    order = np.random.default_rng(0).permutation(n_triples).tolist()
    first = {name: _seconds(way, order) for name, way in ways.items()}
    for number in order[:8]:
        _check([way(number) for way in ways.values()])
    passes: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            passes[name].append(_seconds(way, order))
    rates = {name: n_triples / statistics.median(seconds) for name, seconds in passes.items()}
    sizes = {"stored_mels": _bytes(layout.mels), "stored_sound": _bytes(layout.audio), "online_triples": 0}
    return {
        "font": font.name,
        "triples": n_triples,
        "repeats": repeats,
        "first_pass_triples_per_second": {name: round(n_triples / first[name], 1) for name in ways},
        "median_triples_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "median_clips_per_second": {name: round(CLIPS * rate, 1) for name, rate in rates.items()},
        "stored_mels_over_online_triples": round(rates["stored_mels"] / rates["online_triples"], 1),
        "stored_sound_over_online_triples": round(rates["stored_sound"] / rates["online_triples"], 1),
        "disk_bytes_per_triple": {name: sizes[name] // n_triples for name in ways},
        "note_table_bytes": _bytes(layout.notes),
    }


def _params(font: Path, n_triples: int) -> Params:
    values = YAML(typ="safe").load(preset_text("default"))
    values["collect_midi"]["sources"] = SCORES
    values["render_triples"] |= {
        "triples": {"train": n_triples, "validation": 0, "test": 0, "test_seen": 0},
        "soundfonts": [{"name": font.stem, "sha256": sha256_file(font), "role": "train"}],
    }
    return parse_params(values, source="preset default")


def _store(params: Params, layout: Layout, font: Path) -> None:
    layout.soundfonts.mkdir(parents=True)
    (layout.soundfonts / font.name).symlink_to(font.resolve())
    stages: list[tuple[Any, tuple[Any, ...]]] = [
        (collect_midi, (params.collect_midi,)),
        (render_triples, (params.render_triples,)),
        (extract_mels, (params.extract_mels, params.audio)),
    ]
    for stage, sections in stages:
        for shard in stage.plan(*sections, layout=layout):
            stage.run_one(shard, *sections, layout=layout)
        stage.finish(*sections, layout=layout)


def _ways(params: Params, layout: Layout, n_triples: int) -> dict[str, Way]:
    normalizer, features = read_statistics(layout.mels)
    inputs = RenderInputs(params.render_triples, layout.notes, layout.soundfonts)
    rendered = RenderedTriples(inputs, features, normalizer, split="train", count=n_triples)
    mels = TripleDataset(layout.mels, layout.audio, split="train")
    sound = AudioTripleDataset(layout.audio, features, split="train")
    extractor = FeatureExtractor(features).eval()

    def from_sound(number: int) -> TripleBatch:
        return to_features(sound.collate([sound[number]]), extractor, normalizer)

    return {"online_triples": rendered.__getitem__, "stored_mels": mels.__getitem__, "stored_sound": from_sound}


def _seconds(way: Way, order: list[int]) -> float:
    began = time.process_time()
    for number in order:
        way(number)
    return time.process_time() - began


def _check(triples: list[TripleBatch]) -> None:
    """Features from sound are not rounded to half precision, so they may differ by that."""
    one, other, sound = triples
    if not torch.equal(one.target, other.target) or not torch.allclose(one.target, sound.target[0], atol=0.02):
        raise TimbreflowError("The ways gave different triples; the figures would compare different work.")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
