"""`timbreflow release NAME FOLDER`: trained weights into git, rounded, with a model card.

It is no stage of the pipeline: people decide what is released. Where released/ holds the same weights already, their
file is left alone: git would store them once more for a card's wording.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, atomic_file, read_json, sha256_file
from timbreflow.models.bundle import CONFIG, WEIGHTS, ModelBundle, load_bundle, save_bundle
from timbreflow.models.catalogue import known_model
from timbreflow.models.model_card import STORAGE, Origin, model_card

MAX_BYTES = 100_000_000
"""Of all that lies in released/."""

MAX_ROUNDING = 0.02
"""Largest relative change of a weight tensor by rounding; 8 bits change one by some .6 %."""

CARD = "README.md"


def release(
    name: str,
    folder: Path,
    *,
    released: Path,
    tables: Path,
    fonts: Sequence[str],
    corpora: Sequence[str],
    cost: str = "",
) -> str:
    """Store a bundle below released/, with its card; files that would not change are not written.

    Args:
        name: of the model, as in `models.catalogue`.
        folder: the bundle; it may be the released one itself, which then keeps fonts, corpora and cost.
        released: the folder of all released models.
        tables: results/testsets, whose figures of these very weights go into the card.
        fonts: names of the SoundFonts that it was trained on.
        corpora: sources of notes that it was trained on.
        cost: what the training cost, such as "7.5 h on 2 CPU cores, 21 triples/s"; empty keeps what was said before.

    Returns:
        A sentence for people.

    Raises:
        TimbreflowError: the name is unknown, the folder holds no bundle of its kind, rounding changes the
            weights too much, or released/ would grow beyond 100 MB. Nothing is changed then.
    """
    model = known_model(name)
    name = model.name
    bundle = load_bundle(folder)
    if bundle.kind != model.kind:
        raise TimbreflowError(f"{folder} holds a {bundle.kind}, but {name} is a {model.kind}; name another folder.")
    origin = _origin(bundle, fonts, corpora, cost)
    bundle = replace(bundle, training={**bundle.training, "release": dataclasses.asdict(origin)})
    place = Path(released) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{name}-") as scratch:
        made = Path(scratch) / name
        weights = save_bundle(made, bundle, storage=STORAGE.get(bundle.kind, "float16"))
        _require_small_rounding(bundle, load_bundle(made), name)
        figures = _figures(name, weights, tables)
        megabytes = (made / WEIGHTS).stat().st_size / 1e6
        card = model_card(name, bundle, origin, megabytes=megabytes, tables=figures)
        (made / CARD).write_text(card, encoding="utf-8")
        size = sum(file.stat().st_size for file in made.iterdir())
        _require_room(place, size, Path(scratch))
        changed = _store(made, place)
    sources = f", with figures of {', '.join(figures)}" if figures else ""
    if not changed:
        return f"{place} is up to date{sources}."
    return f"Released {name} in {place}: {size / 1e6:.1f} MB{sources}; changed: {', '.join(changed)}. `git add {place}`"


def _store(made: Path, place: Path) -> list[str]:
    """Move the files of a release into place; with equal weights, only those that differ. Returns what changed."""
    files = (WEIGHTS, CONFIG, CARD)
    changed = [
        file for file in files if not (place / file).is_file() or sha256_file(place / file) != sha256_file(made / file)
    ]
    if WEIGHTS in changed:
        with atomic_directory(place) as fresh:
            for file in files:
                shutil.copyfile(made / file, fresh / file)
    else:
        for file in changed:
            with atomic_file(place / file) as temporary:
                shutil.copyfile(made / file, temporary)
    return changed


def _origin(bundle: ModelBundle, fonts: Sequence[str], corpora: Sequence[str], cost: str) -> Origin:
    before: Mapping[str, Any] | None = bundle.training.get("release")
    if before is None:
        return Origin(tuple(fonts), tuple(corpora), cost)
    return Origin(tuple(before["fonts"]), tuple(before["corpora"]), cost or str(before["cost"]))


@torch.inference_mode()
def _require_small_rounding(bundle: ModelBundle, rounded: ModelBundle, name: str) -> None:
    """Compare the weights tensor by tensor, which works for models of all kinds."""
    worst = (0.0, "")
    stored = rounded.model.state_dict()
    for key, value in bundle.model.state_dict().items():
        if value.is_floating_point() and value.numel():
            error = float((value - stored[key]).float().norm() / value.float().norm().clamp_min(1e-6))
            worst = max(worst, (error, key))
    if worst[0] > MAX_ROUNDING:
        raise TimbreflowError(
            f"{name} loses {worst[0]:.1%} of the weight tensor {worst[1]} by rounding; look for weights below 1e-7 "
            "or for outliers in it."
        )


def _require_room(place: Path, size: int, scratch: Path) -> None:
    others = (
        path.stat().st_size
        for path in place.parent.rglob("*")
        if path.is_file() and place not in path.parents and scratch not in path.parents
    )
    total = sum(others) + size
    if total > MAX_BYTES:
        raise TimbreflowError(
            f"{place.parent} would hold {total / 1e6:.0f} MB, over {MAX_BYTES / 1e6:.0f} MB; release a smaller model."
        )


def _figures(name: str, weights: str, tables: Path) -> dict[str, dict[str, Any]]:
    """Figures of these very weights, by test set."""
    found = {}
    for path in sorted(Path(tables).glob("*/metrics.json")):
        metrics = read_json(path)
        if name in metrics.get("systems", {}) and metrics.get("weights", {}).get(name) == weights:
            found[path.parent.name] = {
                "figures": metrics["systems"][name],
                "content_copied": metrics["systems"].get("content_copied", {}),
                "triples": metrics["triples"],
            }
    return found
