"""How fast finished clips are rendered, beside bare FluidSynth and beside the way of 2021.

Four ways, each in a process of its own on one core, take turns over the same clips, so that a busy machine slows all
of them alike:

- `ours`: the stage render_triples with layers, synthesis parameters, equalizer and effects off: segment and timbre
  drawn, rendered, levelled, 16-bit FLAC, tar, rows of the manifest and of the notes;
- `ours_with_effects`: the same stage with effects as params.yaml draws them;
- `bare`: pyfluidsynth, font loaded, one synthesizer, notes on and off, float buffers; nothing analysed or written. It
  plays the clips of `ours`, then those of `ours_with_effects`, without their effects;
- `way_of_2021`: `PrettyMIDI.fluidsynth` for each clip, which loads the font each time, written as 24-bit WAV.

All use 16 kHz and clips of 8 s of music21's scores. Before the clock starts ours and bare have made their clips once,
so that fonts are loaded and presets probed; what our first pass costs is in the result too. The last line is JSON.
"""

import argparse
import ctypes
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Before numpy is imported, here and in the processes: one core each.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import fluidsynth
import numpy as np
import pretty_midi
import soundfile

from timbreflow.config import load_params
from timbreflow.data.manifest import read_clip_notes, read_manifest
from timbreflow.errors import TimbreflowError
from timbreflow.files import sha256_file
from timbreflow.rendering.config import (
    PerformanceConfig,
    RenderConfig,
    SoundFontSpec,
    SplitFractions,
    TimbreConfig,
    TripleCounts,
)
from timbreflow.rendering.soundfonts import bundled_soundfont
from timbreflow.stages import collect_midi, render_triples
from timbreflow.stages.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_RATE = 16000
SECONDS = 8.0
SCORES = ("music21/joplin", "music21/mozart", "music21/haydn", "music21/schubert")
FONTS = (
    ROOT / "data/soundfonts/FluidR3_GM.sf2",
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
)

PlayedNote = tuple[float, float, int, int]
"""Start and end in s, pitch, velocity."""

_Pass = tuple[ProcessPoolExecutor, Callable[..., float], tuple[Any, ...]]
"""Where one pass of a way runs, what makes it and returns its seconds, and with what."""


@dataclass(frozen=True)
class Clip:
    """What the two other ways need of a clip of ours."""

    bank: int
    program: int
    notes: tuple[PlayedNote, ...]


def main() -> int:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="timbreflow-benchmark-") as folder:
        result = measure(Path(folder), options.soundfont, options.clips, options.repeats)
    print(json.dumps(result))
    return 0


def _options() -> argparse.Namespace:
    default = next((font for font in FONTS if font.is_file()), bundled_soundfont())
    parser = argparse.ArgumentParser(description="Speed of rendering beside bare FluidSynth and the way of 2021.")
    parser.add_argument("--clips", type=int, default=36, help="clips of each pass, a multiple of 3 (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each way (%(default)s)")
    parser.add_argument("--soundfont", type=Path, default=default, help=".sf2 file (%(default)s)")
    options = parser.parse_args()
    if options.clips < 3 or options.clips % 3 or options.repeats < 1:
        parser.error("--clips must be a positive multiple of 3, and --repeats positive")
    if not options.soundfont.is_file():
        parser.error(f"{options.soundfont} does not exist")
    return options


def measure(folder: Path, font: Path, n_clips: int, repeats: int) -> dict[str, Any]:
    """Medians of all ways.

    Args:
        folder: empty, for notes and clips.
        font: SoundFont.
        n_clips: of each pass.
        repeats: passes of each way, interleaved.
    """
    _say("reading scores")
    params = load_params(ROOT / "params.yaml")
    collect_midi.collect(SCORES, folder / "notes", params.collect_midi, root=ROOT, workers=1)
    renders = {
        "ours": _config(font, n_clips, (1.0, 0.0, 0.0, 0.0)),
        "ours_with_effects": _config(font, n_clips, params.render_triples.timbre.effect_counts),
    }
    processes = {name: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for name in (*renders, "bare", "2021")}
    try:
        _say(f"first pass, with {font.name}")
        first, clips = {}, {}
        passes: dict[str, _Pass] = {}
        for name, config in renders.items():
            layout = _layout(folder / name, folder / "notes", font)
            first[name], clips[name] = processes[name].submit(_first_pass, config, layout).result()
            passes[name] = (processes[name], _ours, (config, layout))
        passes["bare"] = (processes["bare"], _bare, (font, clips["ours"]))
        passes["bare_for_effects"] = (processes["bare"], _bare, (font, clips["ours_with_effects"]))
        passes["way_of_2021"] = (processes["2021"], _way_of_2021, (font, clips["ours"], folder))
        _run(passes["bare"])  # loads the font, and leaves its file in memory for the way of 2021
        seconds: dict[str, list[float]] = {name: [] for name in passes}
        for repeat in range(repeats):
            for name, one in passes.items():
                seconds[name].append(_run(one))
            figures = ", ".join(f"{name} {1000 * taken[-1] / n_clips:.2f}" for name, taken in seconds.items())
            _say(f"pass {repeat + 1} of {repeats}, ms a clip: {figures}")
    finally:
        for process in processes.values():
            process.shutdown()
    per_clip = {name: 1000 * statistics.median(taken) / n_clips for name, taken in seconds.items()}
    return {
        "font": font.name,
        "clips": n_clips,
        "repeats": repeats,
        "clip_seconds": SECONDS,
        "sample_rate": SAMPLE_RATE,
        "notes_per_clip": round(statistics.mean(len(clip.notes) for clip in clips["ours"]), 1),
        "first_pass_ms_per_clip": {name: round(1000 * taken / n_clips, 3) for name, taken in first.items()},
        "median_ms_per_clip": {name: round(taken, 3) for name, taken in per_clip.items()},
        "median_clips_per_second": {name: round(1000 / taken, 1) for name, taken in per_clip.items()},
        "ratio_to_fluidsynth": round(per_clip["bare"] / per_clip["ours"], 3),
        "ratio_to_fluidsynth_with_effects": round(per_clip["bare_for_effects"] / per_clip["ours_with_effects"], 3),
        "speedup_over_2021": round(per_clip["way_of_2021"] / per_clip["ours"], 2),
    }


def _run(one: _Pass) -> float:
    process, way, arguments = one
    return process.submit(way, *arguments).result()


def _config(font: Path, n_clips: int, effect_counts: tuple[float, float, float, float]) -> RenderConfig:
    """One shard of clips of a single program each; nothing is held out."""
    return RenderConfig(
        seed=2021,
        sample_rate=SAMPLE_RATE,
        clip_seconds=SECONDS,
        min_onsets=4,
        transposition=5,
        performance=PerformanceConfig(tempo=0.0, velocity=0),
        complete_squares=False,
        triples_per_shard=n_clips // 3,
        soundfonts=(SoundFontSpec(font.stem, sha256_file(font), "train"),),
        triples=TripleCounts(train=n_clips // 3, validation=0, test=0, test_seen=0),
        splits=SplitFractions(validation_pieces=0.0, test_pieces=0.0, test_programs=0.0, test_effects=0.0),
        timbre=TimbreConfig(
            layer_probability=0.0,
            max_layers=1,
            synthesis_probability=0.0,
            equalizer_probability=0.0,
            effect_counts=effect_counts,
        ),
    )


def _layout(root: Path, notes: Path, font: Path) -> Layout:
    layout = Layout(root)
    shutil.copytree(notes, layout.notes)
    layout.soundfonts.mkdir(parents=True)
    (layout.soundfonts / font.name).symlink_to(font.resolve())
    return layout


def _first_pass(config: RenderConfig, layout: Layout) -> tuple[float, list[Clip]]:
    """Seconds of the stage's first shard, font loading and probing included, and the clips that it made."""
    (shard,) = render_triples.plan(config, layout=layout)
    began = time.perf_counter()
    render_triples.run_one(shard, config, layout=layout)
    seconds = time.perf_counter() - began
    notes = dict(iter(read_clip_notes(shard.folder(layout)).groupby("clip_id")))
    clips = []
    for row in read_manifest(shard.folder(layout)).to_dict("records"):
        table = notes[row["clip_id"]]
        columns = (table["onset"], table["onset"] + table["duration"], table["pitch"], table["velocity"])
        played = zip(*(column.tolist() for column in columns), strict=True)
        clips.append(Clip(int(row["bank"]), int(row["program"]), tuple(played)))
    return seconds, clips


def _ours(config: RenderConfig, layout: Layout) -> float:
    """Seconds of the stage's shard, made anew with the worker of before."""
    (shard,) = render_triples.plan(config, layout=layout)
    shutil.rmtree(shard.folder(layout))
    began = time.perf_counter()
    render_triples.run_one(shard, config, layout=layout)
    return time.perf_counter() - began


@lru_cache(maxsize=1)
def _bare_synthesizer(font: Path) -> tuple[fluidsynth.Synth, int]:
    settings = {"synth.reverb.active": 0, "synth.chorus.active": 0, "synth.cpu-cores": 1}
    synth = fluidsynth.Synth(samplerate=float(SAMPLE_RATE), channels=16, **settings)
    return synth, synth.sfload(str(font))


def _bare(font: Path, clips: list[Clip]) -> float:
    """Seconds of FluidSynth alone; the events' times are worked out before the clock starts."""
    synth, number = _bare_synthesizer(font)
    write = fluidsynth._fl.fluid_synth_write_float  # pyfluidsynth binds the 16-bit one only
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    write.argtypes = [pointer, integer, pointer, integer, integer, pointer, integer, integer]
    n_samples = round(SECONDS * SAMPLE_RATE)
    schedules = []
    for clip in clips:
        begins = [(round(start * SAMPLE_RATE), velocity, pitch) for start, _, pitch, velocity in clip.notes]
        ends = [(round(end * SAMPLE_RATE), 0, pitch) for _, end, pitch, _ in clip.notes]
        schedules.append(sorted(event for event in begins + ends if event[0] < n_samples))
    began = time.perf_counter()
    for clip, events in zip(clips, schedules, strict=True):
        audio = np.empty((n_samples, 2), np.float32)
        address, now = audio.ctypes.data, 0
        synth.system_reset()
        synth.program_select(0, number, clip.bank, clip.program)
        for sample, velocity, pitch in events:
            if sample > now:
                write(synth.synth, sample - now, address, 2 * now, 2, address, 2 * now + 1, 2)
                now = sample
            if velocity:
                synth.noteon(0, pitch, velocity)
            else:
                synth.noteoff(0, pitch)
        write(synth.synth, n_samples - now, address, 2 * now, 2, address, 2 * now + 1, 2)
    seconds = time.perf_counter() - began
    if not np.abs(audio).max() > 0:
        raise TimbreflowError(f"{font} was silent in bare FluidSynth; take another SoundFont.")
    return seconds


def _way_of_2021(font: Path, clips: list[Clip], folder: Path) -> float:
    """Seconds of pretty_midi's own rendering of each clip, written as 24-bit WAV."""
    began = time.perf_counter()
    for clip in clips:
        midi = pretty_midi.PrettyMIDI()
        instrument = pretty_midi.Instrument(clip.program)
        instrument.notes = [pretty_midi.Note(velocity, pitch, start, end) for start, end, pitch, velocity in clip.notes]
        midi.instruments.append(instrument)
        audio = midi.fluidsynth(fs=SAMPLE_RATE, synthesizer=str(font))
        soundfile.write(folder / "clip.wav", audio, SAMPLE_RATE, subtype="PCM_24")
    return time.perf_counter() - began


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
