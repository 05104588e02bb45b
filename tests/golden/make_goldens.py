"""Makes golden.json: figures of every metric on sounds that are computed from formulae and a seed.

Run `.venv/bin/python tests/golden/make_goldens.py` after a deliberate change of a metric, and raise METRIC_VERSION.
"""

import json
from pathlib import Path

import numpy as np

from timbreflow.evaluation.digest import METRIC_VERSION
from timbreflow.metrics.frechet import frechet_distance
from timbreflow.metrics.lsd import lsd
from timbreflow.metrics.onsets import onset_f1
from timbreflow.metrics.pitch import pitch_distance
from timbreflow.metrics.statistics import mean_interval
from timbreflow.metrics.stft import stft_distance
from timbreflow.metrics.timbre import mfcc_distance
from timbreflow.metrics.transcription import Transcriber
from timbreflow.notes.tables import Notes

RATE = 16_000
FILE = Path(__file__).with_name("golden.json")


def tones(pitches: list[int], *, harmonics: int, decay: float, seconds: float = 3.0) -> np.ndarray:
    """Decaying harmonic tones [N], one after another: a plucked instrument made of cosines."""
    time = np.arange(int(seconds * RATE)) / RATE
    step = seconds / len(pitches)
    sound = np.zeros_like(time)
    for index, pitch in enumerate(pitches):
        age = time - index * step
        envelope = np.where((age >= 0) & (age < step), np.exp(-decay * np.maximum(age, 0)), 0.0)
        frequency = 440.0 * 2 ** ((pitch - 69) / 12)
        for harmonic in range(1, harmonics + 1):
            if harmonic * frequency < RATE / 2:
                sound += envelope * np.cos(2 * np.pi * harmonic * frequency * age) / harmonic
    noise = np.random.default_rng(7).standard_normal(len(sound))
    return (0.1 * sound + 1e-4 * noise).astype(np.float32)


def figures() -> dict[str, float]:
    """Every metric on three sounds: the same notes dull and bright, and other notes."""
    notes = [60, 64, 67, 72]
    dull, bright = tones(notes, harmonics=3, decay=2.0), tones(notes, harmonics=12, decay=5.0)
    other = tones([57, 62, 65, 69], harmonics=12, decay=5.0)
    truth = Notes.of([0.0, 0.75, 1.5, 2.25], [0.75] * 4, notes, [90] * 4)
    heard = Transcriber().transcribe([dull, bright, other], RATE)
    points = np.random.default_rng(8).standard_normal((2, 40, 5))
    interval = mean_interval(points[0, :, 0], samples=500, seed=9)
    return {
        "metric_version": METRIC_VERSION,
        "lsd_bright_dull": lsd(bright, dull),
        "lsd_other_dull": lsd(other, dull),
        "mfcc_bright_dull": mfcc_distance(bright, dull),
        "mfcc_other_bright": mfcc_distance(other, bright),
        "stft_bright_dull": stft_distance(bright, dull),
        "pitch_bright_dull": pitch_distance(heard[1], heard[0], duration=3.0),
        "pitch_other_dull": pitch_distance(heard[2], heard[0], duration=3.0),
        "f1_dull": onset_f1(heard[0], truth),
        "f1_bright": onset_f1(heard[1], truth),
        "frechet": frechet_distance(points[0], 1.5 * points[1] + 0.2),
        "bootstrap_low": interval.low,
        "bootstrap_high": interval.high,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(figures(), indent=2) + "\n", encoding="utf-8")
