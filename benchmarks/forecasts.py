"""What a flow is for: scores of samples beside those of single predictions, on log-mels, before any vocoder.

A line of JSON a row: CRPS and energy score (dB), LSD of one sample and of the best of all, the ratio of variances over
time in the lower, middle and upper third of the bands (medians), and the difference of CRPS and energy score from the
first row with its 95 % interval over instruments. The VQ-VAE and the Glow's decoder give one prediction, the Glow
`--samples` at each temperature.

    .venv/bin/python -m benchmarks.forecasts                                # validation triples of data/audio
    .venv/bin/python -m benchmarks.forecasts --data data/testsets/artificial --split artificial --clips 16
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timbreflow.audio.features import FeatureExtractor
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips
from timbreflow.evaluation.systems import DecoderAlone
from timbreflow.inference.synthesis import DEFAULT_VARIANCE_SCALE
from timbreflow.metrics.forecasts import best_of, crps, energy_score, variance_ratio
from timbreflow.metrics.statistics import bootstrap
from timbreflow.models.bundle import ModelBundle, load_bundle
from timbreflow.testsets.frozen import SAMPLE_RATE

BATCH = 8
DECIBELS = 20 / math.log(10)
SCORES = {"crps": crps, "energy_score": energy_score, "best_lsd": best_of}
Transfer = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def main() -> int:
    """Print the figures of all rows; 2 after an error, which is one sentence."""
    options = _options()
    try:
        whole = EvaluationClips(options.data, options.split, sample_rate=SAMPLE_RATE, max_triples=0)
        spread = np.linspace(0, len(whole) - 1, min(options.clips, len(whole))).round().astype(int)
        chosen = [whole.triple_ids[number] for number in spread]
        clips = EvaluationClips(options.data, options.split, sample_rate=SAMPLE_RATE, max_triples=0, only=chosen)
        vqvae, glow = (load_bundle(options.models / name) for name in ("vqvae", "glow"))
        rows: dict[str, tuple[ModelBundle, Transfer, int]] = {
            "vqvae": (vqvae, _at(vqvae.model, 0.0), 1),
            "glow_decoder": (glow, _at(DecoderAlone(glow.model), 0.0), 1),
            **{
                f"glow, T = {temperature:g}": (
                    glow,
                    _at(glow.model, temperature),
                    options.samples if temperature else 1,
                )
                for temperature in options.temperatures
            },
        }
        first = None
        for name, (bundle, transfer, samples) in rows.items():
            figures, instruments = measure(bundle, transfer, clips, samples, options.variance_scale)
            first = figures if first is None else first
            line: dict[str, object] = {key: round(float(np.nanmean(values)), 3) for key, values in figures.items()}
            for key in ("crps", "energy_score"):
                found = bootstrap(
                    [figures[key], first[key]], lambda a, b: a - b, samples=2000, seed=0, clusters=instruments
                )
                line[f"{key}_difference"] = [round(bound, 3) for bound in (found.value, found.low, found.high)]
            print(json.dumps({"row": name, "samples": samples, "clips": len(clips), **line}), flush=True)
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


@torch.inference_mode()
def measure(
    bundle: ModelBundle, transfer: Transfer, clips: EvaluationClips, samples: int, variance_scale: float
) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """Figures of every clip, [n] each, and the instrument of its target."""
    if bundle.normalizer is None:
        raise TimbreflowError(f"A model of kind {bundle.kind} has no statistics of features; name one that transfers.")
    extract, floor = FeatureExtractor(bundle.features), math.log(bundle.features.floor)
    noise = torch.Generator().manual_seed(0)
    found: list[dict[str, float]] = []
    instruments: list[str] = []
    for batch in clips.batches(BATCH):
        content, style = (
            bundle.normalizer.normalize(extract(torch.from_numpy(sound))) for sound in (batch.content, batch.style)
        )
        made = torch.stack([transfer(content, style, noise) for _ in range(samples)], dim=1)
        # Below the floor all is silence, in the target too.
        predicted = bundle.normalizer.denormalize(variance_scale * made.flatten(0, 1)).clamp(min=floor)
        predicted = predicted.view_as(made)
        targets = extract(torch.from_numpy(batch.target))
        for one, target in zip((DECIBELS * predicted).numpy(), (DECIBELS * targets).numpy(), strict=True):
            ratios = np.array_split(variance_ratio(one, target), 3)
            found.append(
                {
                    **{name: score(one, target) for name, score in SCORES.items()},
                    "lsd": best_of(one[:1], target),
                    **{
                        f"variance_{third}": float(np.nanmedian(part))
                        for third, part in zip(("low", "middle", "high"), ratios, strict=True)
                    },
                }
            )
        instruments += batch.instruments
    return {name: np.array([figures[name] for figures in found]) for name in found[0]}, instruments


def _at(model: torch.nn.Module, temperature: float) -> Transfer:
    return lambda content, style, noise: model.transfer(  # type: ignore[operator]
        content, style, temperature=temperature, generator=noise
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/audio"), help="folder with manifest and shards")
    parser.add_argument("--split", default="validation", help="split of its manifest, or name of the test set")
    parser.add_argument("--models", type=Path, default=Path("released"), help="folder of vqvae and glow")
    parser.add_argument("--clips", type=int, default=16, help="triples, spread evenly")
    parser.add_argument("--samples", type=int, default=8, help="of the Glow, a clip")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.25, 0.7, 1.0])
    parser.add_argument("--variance-scale", type=float, default=DEFAULT_VARIANCE_SCALE)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
