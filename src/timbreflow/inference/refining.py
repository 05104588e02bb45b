"""The refiner behind a transfer model: where it lies, and whether it fits the model."""

from pathlib import Path
from typing import cast

from timbreflow.errors import TimbreflowError
from timbreflow.models.bundle import ModelBundle, load_bundle, weights_sha256
from timbreflow.models.catalogue import is_bundle
from timbreflow.models.glow.model import Glow
from timbreflow.models.refiner import Refiner
from timbreflow.models.vqvae import VQVAE


def refiner_beside(bundle: Path) -> Path:
    """Where the refiner of a transfer model lies, if it has one: in data/models, released and the registry alike."""
    return bundle.parent / "refiner"


def open_refiner(folder: Path | None, bundle: ModelBundle) -> Refiner | None:
    """The refiner in a folder, where there is one; None for models that predict no notes or have other features.

    Args:
        folder: of the refiner's bundle; None, or a folder that is not there, is no refiner.
        bundle: of the transfer model.

    Raises:
        TimbreflowError: the folder is there and holds no refiner that can be read.
    """
    model = bundle.model
    if folder is None or not folder.is_dir() or not isinstance(model, VQVAE | Glow):
        return None
    found = load_bundle(folder)
    if found.kind != "refiner":
        raise TimbreflowError(f"{folder} holds a {found.kind} and no refiner; remove it, or train a refiner.")
    fits = found.features == bundle.features and model.content_path.pianoroll_head is not None
    return cast(Refiner, found.model) if fits else None


def refiner_sha256(bundle: Path) -> str:
    """sha256 of the weights of the refiner that a transfer model is heard with; empty where there is none.

    Raises:
        TimbreflowError: a bundle cannot be read.
    """
    folder = refiner_beside(bundle)
    if not is_bundle(folder) or open_refiner(folder, load_bundle(bundle)) is None:
        return ""
    return weights_sha256(folder)
