"""Temperature and variance scale, chosen on instruments that no training and no test set uses.

Recordings of five instruments (npm packages `tonejs-instrument-*-mp3`) play notes of the validation triples in
data/audio through the sampler, in the octave that the instrument has. Half of the contents are the rendered clips, the
other half are played by another of the five. The target, the content's notes by the style's instrument, is known.

A line of JSON a model and setting: LSD and MFCC cosine distance to the target, onset F1 of a transcription against the
true notes, and the difference of the first two from the first setting, with the half-width of its 95 % interval.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.outside_pairs import Sound, fetch, play, with_places
from timbreflow.config import load_params
from timbreflow.data.manifest import read_clip_notes, read_manifest
from timbreflow.data.shards import AudioShards
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.system import SystemContext
from timbreflow.evaluation.systems import ModelSystem
from timbreflow.inference.vocoding import open_inverter
from timbreflow.metrics.lsd import lsd
from timbreflow.metrics.onsets import onset_f1
from timbreflow.metrics.timbre import mfcc_distance
from timbreflow.metrics.transcription import Transcriber
from timbreflow.notes.tables import Notes
from timbreflow.rendering.sampler import Instrument, Sampler
from timbreflow.testsets.frozen import SAMPLE_RATE

HELD_OUT = {
    "bass-electric": Instrument(33, 25, 70, True),
    "contrabass": Instrument(43, 27, 70, False),
    "french-horn": Instrument(60, 34, 79, False),
    "guitar-electric": Instrument(27, 36, 90, True),
    "tuba": Instrument(58, 27, 67, False),
}
BATCH = 8
OCTAVES = (0, -12, -24, 12)


@dataclass(frozen=True)
class Triple:
    """Sounds [N] of one level, and the notes of content and target."""

    content: Sound
    style: Sound
    target: Sound
    notes: Notes


def main() -> int:
    """Draw the triples and print the figures of all settings; 2 after an error, which is one sentence."""
    options = _options()
    try:
        folders = {name: fetch(name, options.recordings) for name in HELD_OUT}
        sampler = Sampler(folders, sample_rate=SAMPLE_RATE, instruments=HELD_OUT)
        triples = draw(sampler, options.root / "data" / "audio", options.triples, np.random.default_rng(options.seed))
        for model in options.models:
            first = None
            for temperature, scale in itertools.product(options.temperatures, options.variance_scales):
                found = measure(open_system(options.root, model, temperature, scale), triples)
                first = found if first is None else first
                line = {"model": model, "temperature": temperature, "variance_scale": scale}
                print(json.dumps(line | summary(found, first)), flush=True)
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def draw(sampler: Sampler, audio: Path, count: int, rng: np.random.Generator) -> list[Triple]:
    """Triples of validation notes.

    Raises:
        TimbreflowError: there are no validation triples, or the instruments cannot play so many of them.
    """
    clips = read_manifest(audio)
    clips = clips[clips["split"] == "validation"]
    shards = AudioShards(audio, sample_rate=SAMPLE_RATE)
    table = read_clip_notes(audio)
    table = table[table["clip_id"].isin(clips["clip_id"])]
    notes = {
        str(clip): Notes.of(*(rows[column].to_list() for column in ("onset", "duration", "pitch", "velocity")))
        for clip, rows in table.groupby("clip_id")
    }
    contents, styles = (clips[clips["role"] == role].to_dict("records") for role in ("content", "style"))
    if not contents:
        raise TimbreflowError(f"{audio} has no validation triples; run `make run`.")
    names = list(HELD_OUT)
    triples: list[Triple] = []
    for _ in range(100 * count):
        number = len(triples)
        if number == count:
            break
        name, other = names[number % len(names)], names[(number + 1 + rng.integers(len(names) - 1)) % len(names)]
        content, style = contents[rng.integers(len(contents))], styles[rng.integers(len(styles))]
        theirs, moved = in_reach(sampler, name, notes[content["clip_id"]])
        example, _ = in_reach(sampler, name, notes[style["clip_id"]])
        rendered = number % 2 == 0
        if theirs is None or example is None or style["piece_id"] == content["piece_id"] or (rendered and moved):
            continue
        source = (
            shards.read(content["shard"], content["offset"], content["nbytes"])
            if rendered
            else play(sampler, other, theirs, chords=HELD_OUT[other].chords)
        )
        target, reference = (play(sampler, name, part, chords=HELD_OUT[name].chords) for part in (theirs, example))
        if source is not None and target is not None and reference is not None:
            triples.append(Triple(source, reference, target, theirs))
    if len(triples) < count:
        raise TimbreflowError(f"The instruments can play {len(triples)} of {count} triples; ask for fewer.")
    return triples


def in_reach(sampler: Sampler, name: str, notes: Notes) -> tuple[Notes | None, int]:
    """The notes in the first octave of `OCTAVES` that the instrument has all of, and how far they were moved."""
    for moved in OCTAVES:
        pitch = notes.pitch.astype(int) + moved
        if all(sampler.reaches(name, int(p)) for p in set(pitch)):
            return replace(notes, pitch=pitch.astype(notes.pitch.dtype)), moved
    return None, 0


def open_system(root: Path, model: str, temperature: float, variance_scale: float) -> ModelSystem:
    """A released model with a setting."""
    context = SystemContext(
        features=load_params(root / "params.yaml").audio,
        model_folder=lambda name: root / "released" / name,
        device=torch.device("cpu"),
        temperature=temperature,
        variance_scale=variance_scale,
        inverter=lambda features: open_inverter(features, root / "released" / "vocoder"),
    )
    return ModelSystem(context, model)


def measure(system: ModelSystem, triples: list[Triple]) -> dict[str, NDArray[np.float64]]:
    """Metric to [n] figures."""
    found: dict[str, list[float]] = {"lsd": [], "mfcc": [], "onset_f1": []}
    transcriber = Transcriber(threads=1)
    for start in range(0, len(triples), BATCH):
        batch = triples[start : start + BATCH]
        content, style, target = (
            torch.from_numpy(np.stack([getattr(triple, role) for triple in batch]))
            for role in ("content", "style", "target")
        )
        made = system.transfer(content, style, target, seed=start).numpy()
        heard = transcriber.transcribe(list(made), SAMPLE_RATE)
        for sound, notes, triple in zip(made, heard, batch, strict=True):
            found["lsd"].append(lsd(sound, triple.target))
            found["mfcc"].append(mfcc_distance(sound, triple.target))
            found["onset_f1"].append(onset_f1(notes, triple.notes))
    return {name: np.array(values) for name, values in found.items()}


def summary(found: Mapping[str, NDArray[np.float64]], first: Mapping[str, NDArray[np.float64]]) -> dict[str, object]:
    """Means over all triples, and of the differences from the first setting."""
    means: dict[str, object] = {name: round(float(values.mean()), 4) for name, values in found.items()}
    if found is not first:
        for name in ("lsd", "mfcc"):
            difference = found[name] - first[name]
            interval = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
            means[f"{name}_difference"] = [round(float(difference.mean()), 4), round(float(interval), 4)]
    return means


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Temperature and variance scale on instruments that nothing else uses."
    )
    parser.add_argument("--triples", type=int, default=48, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the drawing (%(default)s)")
    parser.add_argument("--models", nargs="+", default=["vqvae", "glow"], help="folders of released/")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.25], help="the first is compared with")
    parser.add_argument(
        "--variance-scales", type=float, nargs="+", default=[1.0, 1.05], help="the first is compared with"
    )
    return with_places(parser)


if __name__ == "__main__":
    sys.exit(main())
