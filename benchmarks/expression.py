"""What a transfer keeps of expression: tuning, vibrato, glides, dynamics and attacks of sounds that have known ones.

Contents and styles come from three sources: synthetic tones, programs of a SoundFont (GeneralUser GS, of which nothing
is in the training data, else the one of pretty_midi), and recorded notes (those of the test set real, where they are
here). Vibrato, glides and tuning are bent into sounds that have none. Rows are the content copied, and the released
models without and with `inference/expression.py`. Writes results/expression/{table.md,expression.json}.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timbreflow.audio.files import write_audio
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, write_json
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.metrics import expression as measure
from timbreflow.metrics.signals import SAMPLE_RATE
from timbreflow.notes.tables import Notes
from timbreflow.rendering.sampler import Sampler
from timbreflow.rendering.soundfonts import bundled_soundfont
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.timbres import Layer

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT_FONT = "GeneralUser-v1.47"
Sound = NDArray[np.float32]
Play = Callable[[Notes, float], Sound]
"""Notes and seconds to sound [N]."""

MELODY = (69, 72, 76, 74, 71, 67, 72, 76)
LONG_NOTES = (69, 74, 67, 71)
CHORDS = ((60, 67), (62, 65, 69), (59, 62, 67, 71), (57, 60, 64, 67, 72))
BASS = (40, 45, 43, 38)
TUNING_CENTS = 30.0
VIBRATO = (46.0, 5.5)
"""Depth in cents and rate in Hz."""
GLIDE_SEMITONES = 7
FASTEST_RISE = 0.006
DRONE_SECONDS = 30.0


@dataclass(frozen=True)
class Instruments:
    """Where sounds come from.

    Args:
        name: of the source.
        sustained: plays contents that hold notes.
        struck: plays contents with sharp attacks, and is the style with one.
        style: sustained, and another instrument than the content's.
    """

    name: str
    sustained: Play
    struck: Play
    style: Play


@dataclass(frozen=True)
class Case:
    """One sound and what is measured of it.

    Args:
        name: of the row.
        unit: of the figures.
        content: [N].
        style: [S].
        figures: what is measured of an output; texts of the table are `name (unit)`.
    """

    name: str
    unit: str
    content: Sound
    style: Sound
    figures: Callable[[Sound], tuple[float, ...]]


def bent(sound: Sound, cents: NDArray[np.float64]) -> Sound:
    """A sound [N] read at a speed that follows cents [N]: its pitch does, and its notes move with it."""
    place = np.cumsum(2 ** (cents / 1200)) - 1
    fine = np.fft.irfft(np.fft.rfft(sound, 2 * len(sound)), 16 * len(sound)) * 8
    return np.interp(8 * place, np.arange(8 * len(sound)), fine[: 8 * len(sound)], right=0.0).astype(np.float32)


def sequence(pitches: Sequence[int], each: float, *, velocity: int = 100, gap: float = 0.05) -> Notes:
    """Notes one after the other, of `each` s."""
    onsets = 0.1 + each * np.arange(len(pitches))
    return Notes.of(onsets, [each - gap] * len(pitches), list(pitches), [velocity] * len(pitches))


def tones(notes: Notes, seconds: float, *, rise: float, fall: float, partials: Sequence[float]) -> Sound:
    """Synthetic notes with partials of given amplitudes, `rise` s from 10 to 90 %, and a decay of `fall` s to 1 / e."""
    sound = np.zeros(round(seconds * SAMPLE_RATE))
    for onset, duration, pitch in zip(notes.onset, notes.duration, notes.pitch, strict=True):
        time = np.arange(round((duration + 0.05) * SAMPLE_RATE)) / SAMPLE_RATE
        envelope = (
            np.minimum(time / (1.25 * rise), 1) * np.exp(-time / fall) * np.clip((duration + 0.05 - time) / 0.05, 0, 1)
        )
        frequency = 440 * 2 ** ((int(pitch) - 69) / 12)
        wave = sum(
            a * np.sin(2 * np.pi * k * frequency * time) for k, a in enumerate(partials, 1) if k * frequency < 7600
        )
        start = round(onset * SAMPLE_RATE)
        part = sound[start : start + len(time)]
        part += 0.1 * (envelope * wave)[: len(part)]
    return sound.astype(np.float32)


def synthetic() -> Instruments:
    """Tones: of soft and of bright partials."""
    soft, bright = [0.6**k for k in range(8)], [1 / k for k in range(1, 20)]
    return Instruments(
        "synthetic",
        lambda notes, seconds: tones(notes, seconds, rise=0.03, fall=1e3, partials=soft),
        lambda notes, seconds: tones(notes, seconds, rise=FASTEST_RISE, fall=0.5, partials=soft),
        lambda notes, seconds: tones(notes, seconds, rise=0.02, fall=1e3, partials=bright),
    )


def rendered(root: Path) -> Instruments:
    """A clarinet, a steel guitar and an oboe of a SoundFont."""
    held_out = [*(root / "data").glob(f"**/{HELD_OUT_FONT}.sf2")]
    font = held_out[0] if held_out else bundled_soundfont()
    synthesizer = Synthesizer({"font": font}, sample_rate=SAMPLE_RATE)

    def program(number: int) -> Play:
        return lambda notes, seconds: synthesizer.play(notes, [Layer("font", 0, number, 0.0)], None, seconds=seconds)

    return Instruments(font.stem, program(71), program(25), program(68))


def recorded(root: Path) -> Instruments | None:
    """A violin, a nylon guitar and an organ that were recorded; None where they are not here."""
    names = ("tonejs-violin", "tonejs-guitar-nylon", "tonejs-organ")
    folders = {
        name: found[0].parent for name in names if (found := sorted((root / "data").glob(f"**/{name}/**/*.mp3")))
    }
    if len(folders) < len(names):
        return None
    sampler = Sampler(folders, sample_rate=SAMPLE_RATE)

    def instrument(name: str) -> Play:
        return lambda notes, seconds: sampler.play(notes, name, seconds=seconds)

    return Instruments("recorded", *(instrument(name) for name in names))


def cases(source: Instruments) -> list[Case]:
    """All sounds of a source."""
    style = levelled(source.style(sequence((64, 67, 71, 72), 1.9), 8.0))
    sharp = levelled(source.struck(sequence((64, 67, 71, 72) * 2, 0.95), 8.0))
    n = 8 * SAMPLE_RATE
    time = np.arange(n) / SAMPLE_RATE

    def play(instrument: Play, notes: Notes, seconds: float = 8.0) -> Sound:
        return levelled(instrument(notes, seconds))

    melody = bent(play(source.sustained, sequence(MELODY, 0.95)), np.full(n, TUNING_CENTS))
    shaken = bent(play(source.sustained, sequence(LONG_NOTES, 1.9)), VIBRATO[0] * np.sin(2 * np.pi * VIBRATO[1] * time))
    # Two seconds of one note, then up or down for two.
    path = 100 * GLIDE_SEMITONES * np.clip(np.interp(time, [0, 1, 3, 5, 7], [0, 0, 1, 1, 0]), 0, 1)
    glide = bent(
        play(source.sustained, sequence((64,), 12.0), 13.0)[: 13 * SAMPLE_RATE], np.pad(path, (0, 5 * SAMPLE_RATE))
    )[:n]
    steps = sequence(MELODY, 0.95)
    fading = play(source.sustained, steps) * gains(np.linspace(0, -30, len(MELODY)), 0.95, n)
    phrases = play(source.sustained, steps) * gains([0.0] * 4 + [-20.0] * 4, 0.95, n)
    attacks = play(source.struck, sequence(MELODY, 0.95, gap=0.5))
    drone = play(source.sustained, sequence((64,), DRONE_SECONDS, gap=0.0), DRONE_SECONDS)
    together = Notes.of(
        np.repeat(0.1 + 1.9 * np.arange(len(CHORDS)), [len(chord) for chord in CHORDS]),
        [1.8] * sum(map(len, CHORDS)),
        [pitch for chord in CHORDS for pitch in chord],
        [100] * sum(map(len, CHORDS)),
    )
    # A trumpet or a flute plays no chords: those of recorded and rendered sources are the struck instrument's.
    chords, chords_as_style = play(source.struck, together), play(source.style, together)
    deep = play(source.struck, sequence(BASS, 1.9))

    def glide_error(made: Sound) -> tuple[float, ...]:
        moving = [slice(1 * SAMPLE_RATE, 3 * SAMPLE_RATE), slice(5 * SAMPLE_RATE, 7 * SAMPLE_RATE)]
        return (max(measure.glide_error(made[part], glide[part]) for part in moving),)

    def slope(levels_of: Sound) -> Callable[[Sound], tuple[float, ...]]:
        return lambda made: (measure.level_slope(note_levels(made, steps), note_levels(levels_of, steps)),)

    def phrase(made: Sound) -> tuple[float, ...]:
        return (measure.level(made, 3.9, 7.7) - measure.level(made, 0.1, 3.9),)

    def rise(made: Sound) -> tuple[float, ...]:
        return (float(np.median([measure.rise_time(made, 0.1 + 0.95 * k) for k in range(len(MELODY))])),)

    def weak(made: Sound) -> tuple[float, ...]:
        spans = [slice(round((0.3 + 1.9 * k) * SAMPLE_RATE), round((1.7 + 1.9 * k) * SAMPLE_RATE)) for k in range(4)]
        return (
            float(sum(measure.weak_notes(made[s], chords_as_style[s], c) for s, c in zip(spans, CHORDS, strict=True))),
        )

    def depth(made: Sound) -> tuple[float, ...]:
        spans = [(round((0.2 + 1.9 * k) * SAMPLE_RATE), round((1.9 + 1.9 * k) * SAMPLE_RATE)) for k in range(4)]
        return (float(np.median([measure.vibrato(made[start:stop])[0] for start, stop in spans])),)

    found = [
        Case(
            f"tuning of a melody at +{TUNING_CENTS:.0f} cents",
            "cents",
            melody,
            style,
            lambda made: (measure.tuning(made),),
        ),
        Case(f"vibrato of +-{VIBRATO[0]:.0f} cents", "cents", shaken, style, depth),
        Case(
            "glide of 7 semitones: error of the path",
            "cents",
            glide,
            style,
            glide_error,
        ),
        Case("slope of levels over 30 dB", "dB/dB", fading, style, slope(fading)),
        Case("phrase 20 dB softer", "dB", phrases, style, phrase),
        Case("attack, 10 to 90 %", "ms", attacks, sharp, rise),
        Case("drone of 30 s: lowest and highest level", "dB", drone, style, measure.level_swing),
        Case("chords: notes too soft, of 14", "", chords, style, weak),
        Case("bass: share below 150 Hz", "dB", deep, style, lambda made: (measure.low_share(made),)),
    ]
    # Recorded notes end before the drone does.
    held = np.ptp(measure.level_swing(drone)) < 6
    return [case for case in found if held or case.content is not drone]


def gains(decibels: Sequence[float] | NDArray[np.float64], each: float, n_samples: int) -> Sound:
    """[N] amplitudes of notes of `each` s, which change in the gap before a note."""
    note = np.clip((np.arange(n_samples) / SAMPLE_RATE - 0.08) // each, 0, len(decibels) - 1).astype(int)
    return (10 ** (np.asarray(decibels)[note] / 20)).astype(np.float32)


def note_levels(sound: Sound, notes: Notes) -> list[float]:
    """Level of each note, without its first and last tenth of a second."""
    return [
        measure.level(sound, onset + 0.1, onset + duration - 0.1)
        for onset, duration in zip(notes.onset.tolist(), notes.duration.tolist(), strict=True)
    ]


def levelled(sound: Sound) -> Sound:
    """A sound at -23 dBFS."""
    return np.asarray(sound * 10 ** (-23 / 20) / max(float(np.sqrt(np.mean(np.square(sound)))), 1e-9), dtype=np.float32)


def main() -> int:
    """Transfer all sounds, print the table and write it; 2 after an error, which is one sentence."""
    options = _options()
    try:
        sources = [source for source in (synthetic(), rendered(options.root), recorded(options.root)) if source]
        models = {name: TimbreTransfer.released(name) for name in options.models}
        rows = []
        for source in sources[: 1 if options.clips else None]:
            for case in cases(source)[: options.clips or None]:
                figures = {"content": case.figures(case.content)}
                for name, transfer in models.items():
                    for switch in ("off", "on"):
                        made = transfer.transfer(case.content, case.style, sample_rate=SAMPLE_RATE, expression=switch)
                        figures[f"{name}, {switch}"] = case.figures(made)
                        if options.sounds:
                            place = f"{source.name}-{case.name.split(' of ')[0].split(':')[0]}-{name}-{switch}.wav"
                            write_audio(options.sounds / place.replace(" ", "-"), made, SAMPLE_RATE)
                rows.append({"source": source.name, "case": case.name, "unit": case.unit, "figures": figures})
                print(source.name, case.name, {key: _text(value) for key, value in figures.items()}, flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "expression.json", rows)
        with atomic_file(options.out / "table.md") as temporary:
            temporary.write_text(table(rows), encoding="utf-8")
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown with a line for each sound."""
    columns = list(rows[0]["figures"])
    lines = [
        "# Expression",
        "Written by `benchmarks/expression.py`; off and on is `--expression` of `timbreflow transfer`.",
        "",
        f"| source | | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for row in rows:
        name = f"{row['case']} ({row['unit']})" if row["unit"] else row["case"]
        lines.append(f"| {row['source']} | {name} | {' | '.join(_text(row['figures'][key]) for key in columns)} |")
    return "\n".join(lines) + "\n"


def _text(figures: Sequence[float]) -> str:
    return " / ".join(f"{figure:.2f}" if abs(figure) < 2 else f"{figure:.1f}" for figure in figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what transfers keep of expression.")
    parser.add_argument("--clips", type=int, default=0, help="so many sounds of the synthetic ones; 0 takes all")
    parser.add_argument("--models", nargs="+", default=["vqvae", "glow"], help="released models (%(default)s)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "expression", help="folder (%(default)s)")
    parser.add_argument("--sounds", type=Path, help="folder that gets all outputs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
