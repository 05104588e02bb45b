"""Transfers between instruments from outside the project, of which nobody here chose or heard a recording.

`--from recorded`: recordings of seven instruments (npm packages `tonejs-instrument-*-mp3`) play notes of the frozen
test sets through the sampler. `--from sonivox`: the pitched programs of the SoundFont of Sonivox EAS (Sonic Network,
2006, in the npm package `@coderline/alphatab`) play them. No training and no test set uses either.

A pair is content and style; the target, the content's notes by the style's instrument, is known and not given to
anybody. Half of the contents are clips of the set artificial, the others are played by another of these instruments.
All pairs go through `timbreflow transfer --pairs`, as a user would send them.

The last lines are JSON, one a model: the share of pairs whose output is nearer to the style than the content was (MFCC
cosine distance), the chroma similarity to the target, and the LSD to the target over that of the content copied.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.chroma import chroma_similarity
from timbreflow.audio.files import read_audio, write_audio
from timbreflow.data.manifest import read_manifest
from timbreflow.data.shards import AudioShards
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory
from timbreflow.metrics.lsd import lsd
from timbreflow.metrics.timbre import mfcc_distance
from timbreflow.notes.tables import Notes
from timbreflow.rendering.clips import RMS_DBFS, is_silent
from timbreflow.rendering.programs import PITCHED_PROGRAMS
from timbreflow.rendering.sampler import Instrument, Sampler
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.timbres import Layer
from timbreflow.testsets.frozen import SAMPLE_RATE, read_released

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 8.0
OUTSIDE = {
    "saxophone": Instrument(65, 49, 87, False),
    "harp": Instrument(46, 31, 100, True),
    "clarinet": Instrument(71, 50, 91, False),
    "trombone": Instrument(57, 40, 72, False),
    "bassoon": Instrument(70, 34, 72, False),
    "guitar-acoustic": Instrument(25, 40, 84, True),
    "harmonium": Instrument(20, 36, 84, True),
}
VERSION = "1.1.2"
VERSIONS = dict.fromkeys(("harp", "harmonium", "guitar-electric"), "1.1.1")
"""Of npm packages that are not of `VERSION`."""
SONIVOX = ("@coderline/alphatab@1.6.0", "dist/soundfont/sonivox.sf2")
"""npm package, and the SoundFont in it (Apache 2.0)."""
Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Instruments:
    """Where pairs come from.

    Args:
        names: of the instruments.
        play: notes by one of them, [N] at the level of the test sets' clips; None where it cannot play them.
    """

    names: Sequence[str]
    play: Callable[[str, Notes], Sound | None]


def main() -> int:
    """Draw the pairs, transfer them with each model and print the figures; 2 after an error, which is one sentence."""
    options = _options()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            instruments = (sonivox if options.source == "sonivox" else recorded)(options.recordings)
            pairs = draw(instruments, options.root, options.pairs, np.random.default_rng(options.seed))
            with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["id", "content", "style"])
                for number, sounds in enumerate(pairs):
                    for role in ("content", "style"):
                        write_audio(folder / f"{number}-{role}.wav", sounds[role], SAMPLE_RATE)
                    writer.writerow([number, f"{number}-content.wav", f"{number}-style.wav"])
            for model in options.models:
                made = folder / Path(model).name
                command = [str(Path(sys.executable).with_name("timbreflow")), "transfer"]
                command += ["--pairs", str(folder / "pairs.csv"), "-o", str(made), "--model", model]
                command += shlex.split(options.options)
                if subprocess.run(command, cwd=options.root, check=False).returncode:
                    raise TimbreflowError(f"The transfer with {model} failed; its message is above.")
                print(json.dumps({"model": model, **figures(pairs, made)}))
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def recorded(root: Path) -> Instruments:
    """The recorded instruments, got by npm where they are not in a folder yet."""
    folders = {name: fetch(name, root) for name in OUTSIDE}
    sampler = Sampler(folders, sample_rate=SAMPLE_RATE, instruments=OUTSIDE)
    return Instruments(list(OUTSIDE), lambda name, notes: play(sampler, name, notes, chords=OUTSIDE[name].chords))


def sonivox(root: Path) -> Instruments:
    """The programs of Sonivox's SoundFont, got by npm where it is not in a folder yet."""
    synthesizer = Synthesizer({"sonivox": packed(SONIVOX[0], root / "sonivox") / SONIVOX[1]}, sample_rate=SAMPLE_RATE)

    def play_program(name: str, notes: Notes) -> Sound | None:
        layer = Layer("sonivox", 0, int(name), 0.0)
        if not len(notes) or not all(synthesizer.reaches(layer, int(pitch)) for pitch in set(notes.pitch)):
            return None
        sound = synthesizer.play(notes, [layer], None, seconds=SECONDS)
        return None if is_silent(sound) else levelled(sound)

    return Instruments([str(program) for program in PITCHED_PROGRAMS], play_program)


def fetch(instrument: str, root: Path) -> Path:
    """The folder of an instrument's recordings, got by `npm pack` where it is not here yet."""
    package = f"tonejs-instrument-{instrument}-mp3@{VERSIONS.get(instrument, VERSION)}"
    return packed(package, root / instrument)


def packed(package: str, place: Path) -> Path:
    """The files of an npm package, NAME@VERSION, unpacked in a folder."""
    if not (place / "package").is_dir():
        with tempfile.TemporaryDirectory() as downloads:
            command = ["npm", "pack", "--silent", package]
            try:
                done = subprocess.run(command, cwd=downloads, capture_output=True, text=True, check=False)
            except OSError as error:
                raise TimbreflowError(f"npm cannot be run ({error.strerror}); install it, such as by apt.") from error
            archives = list(Path(downloads).glob("*.tgz"))
            if done.returncode or not archives:
                raise TimbreflowError(
                    f"npm could not pack {package} ({done.stderr.strip()[-200:]}); check the network."
                )
            with atomic_directory(place) as made, tarfile.open(archives[0]) as archive:
                archive.extractall(made, filter="data")
    return place / "package"


def draw(instruments: Instruments, root: Path, count: int, rng: np.random.Generator) -> list[dict[str, Sound]]:
    """Content, style and target of each pair, [N] float32 of one level."""
    released = read_released(root / "released" / "testsets", "artificial")
    built = root / "data" / "testsets" / "artificial"
    if not (built / "manifest.parquet").is_file():
        raise TimbreflowError(f"{built} is missing; run `timbreflow testset build artificial`.")
    audio = AudioShards(built, sample_rate=SAMPLE_RATE)
    notes = released.notes()
    clips = read_manifest(built)
    clips = clips[clips["clip_id"].isin(list(notes))]
    contents = clips[clips["role"] == "content"].to_dict("records")
    others = clips[clips["role"] == "style"].to_dict("records")
    names = list(instruments.names)
    if len(names) > count:
        names = [names[place] for place in rng.permutation(len(names))]
    pairs: list[dict[str, Sound]] = []
    while len(pairs) < count:
        number = len(pairs)
        name = names[number % len(names)]
        content, style = contents[rng.integers(len(contents))], others[rng.integers(len(others))]
        target = instruments.play(name, notes[content["clip_id"]])
        example = None
        if style["piece_id"] != content["piece_id"]:
            example = instruments.play(name, notes[style["clip_id"]])
        if number % 2:
            other = names[(number + 1 + rng.integers(len(names) - 1)) % len(names)]
            source = instruments.play(other, notes[content["clip_id"]])
        else:
            source = audio.read(content["shard"], content["offset"], content["nbytes"])
        if target is not None and example is not None and source is not None:
            pairs.append({"content": source, "style": example, "target": target})
    return pairs


def play(sampler: Sampler, name: str, notes: Notes, *, chords: bool) -> Sound | None:
    """The notes by an instrument, levelled as clips of the test sets; None where it does not play them all."""
    sounding = np.stack([notes.onset, notes.onset + notes.duration])
    several = bool((np.sort(sounding[0])[1:] < np.sort(sounding[1])[:-1] - 0.05).any())
    if (several and not chords) or not all(sampler.reaches(name, int(p)) for p in set(notes.pitch)):
        return None
    return levelled(sampler.play(notes, name, seconds=SECONDS))


def levelled(sound: Sound) -> Sound:
    """A sound at the level of the test sets' clips."""
    gain = min(10 ** (RMS_DBFS / 20) / np.sqrt(np.mean(np.square(sound))), 0.99 / np.abs(sound).max())
    return np.asarray(sound * gain, dtype=np.float32)


def figures(pairs: list[dict[str, Sound]], made: Path) -> dict[str, float]:
    """Means over all pairs; the LSD is a ratio of means."""
    nearer, chroma, ours, copied = [], [], [], []
    for number, sounds in enumerate(pairs):
        output = read_audio(made / f"{number}.wav", sample_rate=SAMPLE_RATE)[0].mean(axis=0)
        style, target = sounds["style"], sounds["target"]
        nearer.append(mfcc_distance(output, style) < mfcc_distance(sounds["content"], style))
        chroma.append(chroma_similarity(output, target))
        ours.append(lsd(output, target))
        copied.append(lsd(sounds["content"], target))
    return {
        "pairs": len(pairs),
        "nearer_to_style": round(float(np.mean(nearer)), 3),
        "chroma": round(float(np.mean(chroma)), 3),
        "lsd": round(float(np.mean(ours)), 2),
        "lsd_over_content": round(float(np.mean(ours) / np.mean(copied)), 3),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Transfer between instruments from outside the project.")
    parser.add_argument("--from", dest="source", choices=["recorded", "sonivox"], default="recorded")
    parser.add_argument("--pairs", type=int, default=40, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (%(default)s)")
    parser.add_argument("--models", nargs="+", default=["vqvae", "glow"], help="for `transfer --model`")
    parser.add_argument("--options", default="", help="more options of `transfer`, such as --options='--mode convert'")
    return with_places(parser)


def with_places(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of a command, with those of the checkout and of the recordings."""
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (%(default)s)")
    parser.add_argument("--recordings", type=Path, help="folder of the recordings; data/corpora/outside")
    options = parser.parse_args()
    options.recordings = options.recordings or options.root / "data" / "corpora" / "outside"
    return options


if __name__ == "__main__":
    sys.exit(main())
