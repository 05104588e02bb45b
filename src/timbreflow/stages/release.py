"""`timbreflow release NAME FOLDER`: trained weights into git, in half precision, with their card.

It is no stage of the pipeline: what is released is decided by people. Released once more from its own folder, after
`timbreflow evaluate --testset`, a model keeps its weights bit for bit and its card gets the figures.
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
from timbreflow.files import atomic_directory, read_json
from timbreflow.inference.catalogue import MODEL_FILES
from timbreflow.inference.model_card import MEASURES, Origin, model_card
from timbreflow.models.bundle import ModelBundle, load_bundle, save_bundle
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult

RELEASABLE = {
    "vqvae": "vqvae",
    "vqvae-paper": "vqvae",
    "glow": "glow",
    "timbre_metric": "triplet",
    "vocoder": "vocoder",
}
"""Folder below released/ -> kind of its bundle."""
SYSTEMS = {"vqvae": "vqvae_base", "vqvae-paper": "vqvae_paper", "glow": "glow"}
"""Folder below released/ -> row of the tables."""
LARGEST = 100_000_000
"""Bytes of all that lies in released/."""
CARD = "README.md"


def release(
    name: str, folder: Path, *, layout: Layout, fonts: Sequence[str], corpora: Sequence[str], cost: str = ""
) -> StageResult:
    """Store a bundle below released/, with a card.

    Args:
        name: a key of `RELEASABLE`.
        folder: the bundle; it may be the released one itself, which then keeps fonts, corpora and cost.
        layout: of the checkout.
        fonts: names of the SoundFonts that it was trained on.
        corpora: sources of notes that it was trained on.
        cost: what the training cost, such as "7.5 h on 2 CPU cores, 21 triples/s"; empty keeps what was said before.

    Raises:
        TimbreflowError: the name is unknown, the folder holds no bundle of its kind, half precision changes what the
            model does, or released/ would grow beyond 100 MB. Nothing is changed then.
    """
    if name not in RELEASABLE:
        raise TimbreflowError(f"There is no model {name!r} to release; choose one of {', '.join(RELEASABLE)}.")
    bundle = load_bundle(folder)
    if bundle.kind != RELEASABLE[name]:
        raise TimbreflowError(
            f"{folder} holds a {bundle.kind}, but {name} is a {RELEASABLE[name]}; name another folder."
        )
    origin = _origin(bundle, fonts, corpora, cost)
    bundle = replace(bundle, training={**bundle.training, "release": dataclasses.asdict(origin)})
    place = layout.root / "released" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{name}-") as scratch:
        made = Path(scratch) / name
        digest = save_bundle(made, bundle, half_precision=bundle.kind not in MEASURES)
        _require_same(bundle, load_bundle(made), made)
        size = sum((made / file).stat().st_size for file in MODEL_FILES)
        tables = _tables(name, digest, layout)
        card = model_card(name, bundle, origin, megabytes=(made / MODEL_FILES[1]).stat().st_size / 1e6, tables=tables)
        _require_room(place, size + len(card.encode()), made.parent)
        with atomic_directory(place) as fresh:
            for file in MODEL_FILES:
                shutil.copyfile(made / file, fresh / file)
            (fresh / CARD).write_text(card, encoding="utf-8")
    told = f", with figures of {', '.join(tables)}" if tables else ""
    return StageResult(
        summary=f"Released {name} in {place}: {size / 1e6:.1f} MB{told}; add it with `git add {place}`.",
        metrics={"megabytes": size / 1e6},
        files={"card": place / CARD},
    )


def _origin(bundle: ModelBundle, fonts: Sequence[str], corpora: Sequence[str], cost: str) -> Origin:
    said: Mapping[str, Any] | None = bundle.training.get("release")
    if said is None:
        return Origin(tuple(fonts), tuple(corpora), cost)
    return Origin(tuple(said["fonts"]), tuple(said["corpora"]), cost or str(said["cost"]))


@torch.inference_mode()
def _require_same(bundle: ModelBundle, halved: ModelBundle, folder: Path) -> None:
    """Half precision must not be heard: compare weights one by one, as models of all kinds have them."""
    worst = 0.0
    stored = halved.model.state_dict()
    for name, value in bundle.model.state_dict().items():
        if value.is_floating_point() and value.numel():
            error = (value - stored[name]).float().norm() / value.float().norm().clamp_min(1e-6)
            worst = max(worst, float(error))
    if worst > 0.01:
        raise TimbreflowError(
            f"{folder.name} loses {worst:.1%} of a weight in half precision; look for weights below 1e-7 in it."
        )


def _require_room(place: Path, size: int, scratch: Path) -> None:
    others = (
        path.stat().st_size
        for path in place.parent.rglob("*")
        if path.is_file() and place not in path.parents and scratch not in path.parents
    )
    total = sum(others) + size
    if total > LARGEST:
        raise TimbreflowError(
            f"{place.parent} would hold {total / 1e6:.0f} MB, over {LARGEST / 1e6:.0f} MB; release a smaller model."
        )


def _tables(name: str, digest: str, layout: Layout) -> dict[str, dict[str, Any]]:
    """Figures of these very weights, by test set."""
    system, found = SYSTEMS.get(name), {}
    for path in sorted((layout.results("testsets")).glob("*/metrics.json")):
        metrics = read_json(path)
        if system in metrics.get("systems", {}) and metrics.get("weights", {}).get(system) == digest:
            found[path.parent.name] = {
                "figures": metrics["systems"][system],
                "content_copied": metrics["systems"].get("content_copied", {}),
                "triples": metrics["triples"],
            }
    return found
