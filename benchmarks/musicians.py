"""What the musicians' options do, on the frozen test sets: strength, takes, familiarity, transposition.

- `strength`: MFCC distance to the content and to the style at strength 0, .5 and 1, for each model; how many pairs are
  monotone in both.
- `takes`: is the first-ranked of eight takes of the Glow nearer to the target (LSD, MFCC) than a random one? Paired
  differences with 95 % intervals; the same for each figure that the ranking is made of.
- `familiarity`: rank correlation of how well the Glow knows a style with the share of the MFCC distance to the target
  that its transfer closes.
- `transpose`: notes that the VQ-VAE hears in contents transposed by three methods, against the true ones.

The last line is JSON. Build the sets first: `timbreflow testset build`.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from timbreflow.evaluation.clips import EvaluationClips, TripleBatch
from timbreflow.inference.synthesis import encoding
from timbreflow.inference.takes import TakeFigures, ranked
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.inference.transposition import transposed_features
from timbreflow.metrics.lsd import lsd
from timbreflow.metrics.statistics import mean_interval
from timbreflow.metrics.timbre import mfcc_distance

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
TAKES = 8
STRENGTHS = (0.0, 0.5, 1.0)
SEMITONES = (-7, -5, 3, 5)


def pairs(testset: str, count: int) -> Iterator[TripleBatch]:
    """Triples one by one, spread evenly over a built set."""
    folder = ROOT / "data" / "testsets" / testset
    clips = EvaluationClips(folder, testset, sample_rate=RATE, max_triples=0)
    ids = clips.triple_ids
    chosen = [ids[place] for place in np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)]
    return EvaluationClips(folder, testset, sample_rate=RATE, max_triples=0, only=chosen).batches(1)


def strength(testset: str, count: int) -> dict[str, Any]:
    """Distances at each strength, and the share of pairs whose distances are monotone."""
    result: dict[str, Any] = {}
    sessions = {name: TimbreTransfer.released(name) for name in ("vqvae", "glow")}
    rows: dict[str, list[list[list[float]]]] = {name: [] for name in sessions}
    for batch in pairs(testset, count):
        content, style = batch.content[0], batch.style[0]
        for name, session in sessions.items():
            made = [session.transfer(content, style, strength=value) for value in STRENGTHS]
            rows[name].append([[mfcc_distance(one, other) for one in made] for other in (content, style)])
            print(name, batch.triple_ids[0], np.round(rows[name][-1], 3).tolist(), file=sys.stderr, flush=True)
    for name, found in rows.items():
        table = np.array(found)  # [pairs, content or style, strengths]
        away, towards = np.diff(table[:, 0]) > 0, np.diff(table[:, 1]) < 0
        result[name] = {
            "to_content": table[:, 0].mean(0).round(4).tolist(),
            "to_style": table[:, 1].mean(0).round(4).tolist(),
            "pairs": len(table),
            "monotone_from_content": int(away.all(1).sum()),
            "monotone_to_style": int(towards.all(1).sum()),
        }
    return result


def takes(testset: str, count: int) -> dict[str, Any]:
    """First-ranked takes against the mean of all, which is what a random one is expected to be."""
    session = TimbreTransfer.released("glow")
    orders: dict[str, Callable[[list[TakeFigures]], int]] = {
        "ranking": lambda figures: ranked(figures)[0],
        "off_prediction": lambda figures: int(np.argmin([one.off_prediction for one in figures])),
        "off_style": lambda figures: int(np.argmin([one.off_style for one in figures])),
        "bits_per_dim": lambda figures: int(np.argmin([one.bits_per_dim for one in figures])),
        "closeness": lambda figures: int(np.argmax([one.closeness for one in figures])),
        "notes_kept": lambda figures: int(np.argmax([one.notes_kept for one in figures])),
    }
    gains: dict[str, list[tuple[float, float]]] = {name: [] for name in orders}
    spreads, figures_of_all = [], []
    for batch in pairs(testset, count):
        made = session.takes(batch.content[0], batch.style[0], TAKES)
        figures = [take.figures for take in made]
        sounds = [take.audio for take in made if take.audio is not None]
        distances = np.array([[lsd(one, batch.target[0]), mfcc_distance(one, batch.target[0])] for one in sounds])
        for name, first in orders.items():
            difference = distances[first(figures)] - distances.mean(0)
            gains[name].append((float(difference[0]), float(difference[1])))
        spreads.append(distances.std(0))
        figures_of_all += [dataclasses.astuple(one) for one in figures]
        print(batch.triple_ids[0], np.round(gains["ranking"][-1], 4).tolist(), file=sys.stderr, flush=True)
    return {
        "pairs": len(spreads),
        "takes": TAKES,
        "spread_of_takes": dict(zip(("lsd", "mfcc"), np.mean(spreads, axis=0).round(4).tolist(), strict=True)),
        "first_minus_random": {
            name: {metric: _interval([gain[column] for gain in found]) for column, metric in enumerate(("lsd", "mfcc"))}
            for name, found in gains.items()
        },
        "figures": {
            name: np.quantile([one[column] for one in figures_of_all], [0.1, 0.5, 0.9]).round(3).tolist()
            for column, name in enumerate(field.name for field in dataclasses.fields(TakeFigures))
        },
    }


def familiarity(testset: str, count: int) -> dict[str, Any]:
    """Rank correlations over the clips of a set."""
    session = TimbreTransfer.released("glow")
    rows = []
    for batch in pairs(testset, count):
        content, style, target = batch.content[0], batch.style[0], batch.target[0]
        known = session.familiarity(style)
        made = session.transfer(content, style)
        before, after = mfcc_distance(content, target), mfcc_distance(made, target)
        rows.append((known.echo_rank, known.echo, known.bits_per_dim, 1 - after / max(before, 1e-6), after))
        print(batch.triple_ids[0], np.round(rows[-1], 3).tolist(), file=sys.stderr, flush=True)
    rank, echo, bits, closed, after = np.array(rows).T
    found = {
        f"{name}/{against}": [round(float(value), 3) for value in spearmanr(-figure, column)]
        for name, figure in (("echo", echo), ("bits_per_dim", bits))
        for against, column in (("gap_closed", closed), ("distance_to_target", after))
    }
    return {
        "pairs": len(rows),
        "spearman_and_p": found,
        "mean_rank": round(float(rank.mean()), 3),
        "share_above_all": round(float((rank == 0).mean()), 3),
    }


def transpose(testset: str, count: int) -> dict[str, Any]:
    """F1 of frames of the piano roll that is heard, by method and semitones; the targets' notes are the truth."""
    session = TimbreTransfer.released("vqvae")
    synthesizer, model = session.synthesizer, encoding(session.bundle.model)
    seconds_per_frame = session.bundle.features.seconds_per_frame

    def phase_vocoder(audio: NDArray[np.float32], semitones: int) -> torch.Tensor:
        shifted = librosa.effects.pitch_shift(audio, sr=RATE, n_steps=semitones, res_type="soxr_hq")
        return synthesizer.extract(torch.from_numpy(shifted)[None])

    def bands(audio: NDArray[np.float32], semitones: int) -> torch.Tensor:
        """Log-mel read at the frequencies of the transposed bands."""
        config = session.bundle.features
        centres = librosa.mel_frequencies(config.n_mels + 2, fmin=config.fmin, fmax=config.fmax)[1:-1]
        raw = synthesizer.extract(torch.from_numpy(audio)[None])[0].numpy()
        wanted = centres / 2 ** (semitones / 12)
        floor = float(np.log(config.floor))
        return torch.from_numpy(
            np.stack([np.interp(wanted, centres, frame, right=floor) for frame in raw.T], axis=1)[None]
        ).float()

    methods: dict[str, Callable[[NDArray[np.float32], int], torch.Tensor]] = {
        "frames": lambda audio, semitones: transposed_features(
            torch.from_numpy(audio)[None], semitones, synthesizer.extract
        ),
        "phase_vocoder": phase_vocoder,
        "bands": bands,
    }
    scores: dict[str, list[float]] = {}
    for batch in pairs(testset, count):
        audio, notes = batch.target[0], batch.notes[0]
        for (name, method), semitones in itertools.product(methods.items(), (0, *SEMITONES)):
            with torch.inference_mode():
                features = synthesizer.normalizer.normalize(method(audio, semitones))
                logits = model.content_path(features).pianoroll_logits
            assert logits is not None
            heard = logits[0].sigmoid().numpy() > 0.5
            truth = notes.transposed(semitones).piano_roll(heard.shape[1], seconds_per_frame)
            f1 = 2 * float((heard & truth).sum()) / max(1.0, float(heard.sum() + truth.sum()))
            scores.setdefault(f"{name}/{semitones:+d}", []).append(f1)
    return {"pairs": len(next(iter(scores.values()))), "f1": {key: _interval(values) for key, values in scores.items()}}


def _interval(values: list[float]) -> list[float]:
    found = mean_interval(values, samples=2000, seed=0)
    return [round(number, 4) for number in (found.value, found.low, found.high)]


def main() -> int:
    """Measure and print."""
    measures = {"strength": strength, "takes": takes, "familiarity": familiarity, "transpose": transpose}
    parser = argparse.ArgumentParser(description="What the musicians' options do, on the frozen test sets.")
    parser.add_argument("measure", choices=measures)
    parser.add_argument("--testset", default="real", help="artificial, seen or real (%(default)s)")
    parser.add_argument("--pairs", type=int, default=60, help="spread evenly over the set (%(default)s)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    result = measures[options.measure](options.testset, options.pairs)
    print(json.dumps({"measure": options.measure, "testset": options.testset, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
