"""What the refiner gives, on stored triples: L1 of normalised log-mels, and how well the notes are heard.

A line of JSON for each model: L1 without the refiner, with it, and with it where the content's true notes are told;
the share of triples that it brings nearer to the target; and F-scores of content and style, of frames and of onsets
(a frame early or late counts), for the model's own notes and for those that the refiner takes. Two more lines are the
content as it came and the look-up alone, with nothing trained.

    .venv/bin/python -m benchmarks.refiner                              # validation triples of data/
    .venv/bin/python -m benchmarks.refiner --split test                 # triples on the fonts of role test
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timbreflow.audio.features import Normalizer
from timbreflow.data.triples import TripleBatch, TripleDataset
from timbreflow.errors import TimbreflowError
from timbreflow.inference.synthesis import DEFAULT_TEMPERATURE
from timbreflow.models.bundle import ModelBundle, load_bundle
from timbreflow.models.glow.model import Glow
from timbreflow.models.lookup import THRESHOLD, hand_set_skeleton
from timbreflow.models.refiner import Refiner
from timbreflow.models.vqvae import VQVAE

BATCH = 4


def main() -> int:
    """Print the figures of all rows; 2 after an error, which is one sentence."""
    options = _options()
    try:
        dataset = TripleDataset(options.data / "mels", options.data / "audio", split=options.split)
        refiner = load_bundle(options.refiner or options.models / "refiner").model
        if not isinstance(refiner, Refiner):
            raise TimbreflowError(f"{options.refiner} holds no refiner; name its folder.")
        clips = min(options.clips, len(dataset))
        items = [number * len(dataset) // clips for number in range(clips)]
        for name in ("vqvae", "glow"):
            bundle = load_bundle(options.models / name)
            figures = measure(bundle, refiner, dataset, items, own_threshold=options.own_threshold)
            print(json.dumps({"row": name, "triples": clips, **figures}), flush=True)
        for row, figure in alone(refiner, dataset, items).items():
            print(json.dumps({"row": row, "triples": clips, "l1": figure}), flush=True)
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


@torch.inference_mode()
def measure(
    bundle: ModelBundle, refiner: Refiner, dataset: TripleDataset, items: list[int], *, own_threshold: float = THRESHOLD
) -> dict[str, float]:
    """Figures of one model on triples of these numbers; its own notes are those above `own_threshold`."""
    model, normalizer = bundle.model, bundle.normalizer
    if not isinstance(model, VQVAE | Glow) or normalizer is None:
        raise TimbreflowError(f"A model of kind {bundle.kind} has no refiner; name a vqvae or a glow.")
    unit = Normalizer(refiner.mean, refiner.std)
    errors: dict[str, list[float]] = {"unrefined": [], "refined": [], "true_notes": []}
    scores: dict[str, Tensor] = {}
    torch.manual_seed(0)
    for batch, style_roll in _batches(dataset, items):
        raw = {name: dataset.normalizer.denormalize(getattr(batch, name)) for name in ("content", "style", "target")}
        content, style = (normalizer.normalize(raw[name]) for name in ("content", "style"))
        made = normalizer.denormalize(model.transfer(content, style, temperature=DEFAULT_TEMPERATURE).float())
        own = {name: model.content_path.pianoroll(x) for name, x in (("content", content), ("style", style))}
        read = {name: refiner.read(raw[name], roll) for name, roll in own.items()}
        true = {"content": batch.content_roll, "style": style_roll}
        for row, roll in (("refined", read["content"]), ("true_notes", true["content"].float())):
            change = refiner(made, raw["content"], raw["style"], roll, read["style"])
            errors[row] += _error(unit, made + change, raw["target"])
        errors["unrefined"] += _error(unit, made, raw["target"])
        for kind, rolls, threshold in (("own", own, own_threshold), ("read", read, THRESHOLD)):
            for name, roll in rolls.items():
                counts = note_counts(roll > threshold, true[name])
                scores[f"{kind}_{name}"] = scores.get(f"{kind}_{name}", torch.zeros(2, 4)) + counts
    means = {f"l1_{row}": float(np.mean(values)) for row, values in errors.items()}
    better = float(np.mean(np.array(errors["refined"]) < np.array(errors["unrefined"])))
    found = {
        f"{name}_{what}_f1": _f1(row)
        for name, part in scores.items()
        for what, row in zip(("frame", "onset"), part, strict=True)
    }
    return {name: round(value, 4) for name, value in {**means, "better": better, **found}.items()}


@torch.inference_mode()
def alone(refiner: Refiner, dataset: TripleDataset, items: list[int]) -> dict[str, float]:
    """L1 of the content as it came, and of the hand-set look-up with true notes."""
    unit = Normalizer(refiner.mean, refiner.std)
    rows: dict[str, Callable[[Tensor, Tensor, TripleBatch, Tensor], Tensor]] = {
        "content_copied": lambda content, style, batch, roll: content,
        "hand_set_look_up": lambda content, style, batch, roll: hand_set_skeleton(
            batch.content_roll.float(), roll.float(), style, refiner.transpose
        ),
    }
    errors: dict[str, list[float]] = {row: [] for row in rows}
    for batch, style_roll in _batches(dataset, items):
        content, style, target = (dataset.normalizer.denormalize(x) for x in (batch.content, batch.style, batch.target))
        for row, make in rows.items():
            errors[row] += _error(unit, make(content, style, batch, style_roll), target)
    return {row: round(float(np.mean(values)), 4) for row, values in errors.items()}


def note_counts(heard: Tensor, true: Tensor) -> Tensor:
    """[2, 4] of piano rolls [B, 128, T] bool: right among heard, heard, found among true, true; of frames, onsets."""
    began, begun = (_onsets(roll) for roll in (heard, true))
    return torch.tensor(
        [
            [float(x.sum()) for x in (heard & true, heard, heard & true, true)],
            [float(x.sum()) for x in (began & _about(begun), began, begun & _about(began), begun)],
        ]
    )


def _f1(counts: Tensor) -> float:
    right, heard, found, true = counts.tolist()
    precision, recall = right / max(heard, 1), found / max(true, 1)
    return 2 * precision * recall / max(precision + recall, 1e-9)


def _onsets(roll: Tensor) -> Tensor:
    onset = roll.clone()
    onset[..., 1:] &= ~roll[..., :-1]
    return onset


def _about(events: Tensor) -> Tensor:
    """Frames that are at most one from an event."""
    return F.max_pool1d(events.float(), 3, 1, 1) > 0


def _error(unit: Normalizer, made: Tensor, target: Tensor) -> list[float]:
    """L1 of each triple, in deviations of the features."""
    errors: list[float] = (unit.normalize(made) - unit.normalize(target)).abs().mean((1, 2)).tolist()
    return errors


def _batches(dataset: TripleDataset, items: list[int]) -> list[tuple[TripleBatch, Tensor]]:
    """Triples, and the true notes of their styles."""
    rows = dataset.positions["style"].to_numpy()
    batches = []
    for start in range(0, len(items), BATCH):
        chosen = items[start : start + BATCH]
        batch = dataset.__getitems__(chosen)
        batches.append((batch, dataset.piano_rolls(rows[chosen], batch.style.shape[-1])))
    return batches


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of audio/ and mels/")
    parser.add_argument("--split", default="validation", help="validation or test")
    parser.add_argument("--models", type=Path, default=Path("released"), help="folder of vqvae, glow and refiner")
    parser.add_argument("--refiner", type=Path, default=None, help="folder of another refiner")
    parser.add_argument("--own-threshold", type=float, default=THRESHOLD, help="of the models' own notes, to compare")
    parser.add_argument("--clips", type=int, default=48, help="triples, spread evenly")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
