"""Models at rest: a folder with `weights.safetensors` and `config.json`, all that is needed to use the model.

config.json holds {format, kind, model, features, statistics, training}; no pickle anywhere. `statistics` is null where
the model does not see normalised features (the timbre metric).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, read_json, sha256_file, write_json
from timbreflow.models.build import build_model, config_from_dict, config_to_dict, kind_of, with_added_keys

FORMAT = 1
WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
_KEYS = {"format", "kind", "model", "features", "statistics", "training"}


@dataclass(frozen=True)
class ModelBundle:
    """A model and what it needs to be fed and understood.

    Attributes:
        kind: "vqvae", "glow", "triplet" or "vocoder".
        model: the network; from `load_bundle` in evaluation mode, float32, on the CPU.
        features: what the model's input is made with.
        normalizer: statistics of the training split; None for models of raw features.
        training: plain facts on the training (steps, seed, losses …), for JSON.
    """

    kind: str
    model: nn.Module
    features: FeatureConfig
    normalizer: Normalizer | None
    training: Mapping[str, Any] = field(default_factory=dict)


def save_bundle(folder: Path, bundle: ModelBundle, *, half_precision: bool = False) -> str:
    """Write a bundle as one folder that appears whole or not at all, in place of an older one.

    Args:
        folder: where; its parent is made.
        bundle: what.
        half_precision: store float32 tensors as float16 (except those whose values float16 cannot hold).

    Returns:
        sha256 of the weights file; the same weights give the same.

    Raises:
        TimbreflowError: kind and model do not agree, or a weight is not finite.
    """
    if kind_of(bundle.model) != bundle.kind:
        raise TimbreflowError(
            f"The bundle says {bundle.kind!r} and holds a {kind_of(bundle.model)}; name the right kind."
        )
    weights = {}
    for name, tensor in bundle.model.state_dict().items():
        value = tensor.detach().cpu().contiguous().clone()
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TimbreflowError(f"{folder} was not written: weight {name} is not finite; train with a lower rate.")
        weights[name] = _halved(value) if half_precision else value
    with atomic_directory(Path(folder)) as temporary:
        save_file(weights, temporary / WEIGHTS)
        write_json(
            temporary / CONFIG,
            {
                "format": FORMAT,
                "kind": bundle.kind,
                "model": config_to_dict(bundle.model.config),
                "features": config_to_dict(bundle.features),
                "statistics": None if bundle.normalizer is None else bundle.normalizer.statistics(),
                "training": dict(bundle.training),
            },
        )
        return sha256_file(temporary / WEIGHTS)


def load_bundle(folder: Path) -> ModelBundle:
    """Read a bundle and check it strictly.

    Raises:
        TimbreflowError: a file is missing or broken, the format or kind is unknown, or the weights do not fit.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else config
        raise TimbreflowError(
            f"{folder / CONFIG} has format {found!r} and this version reads {FORMAT}; train the model again or "
            "install the version that wrote it."
        )
    if set(config) != _KEYS:
        raise TimbreflowError(f"{folder / CONFIG} must have the keys {sorted(_KEYS)}; make the model again.")
    try:
        model = build_model(config["kind"], with_added_keys(config["kind"], config["model"]))
        features = config_from_dict(FeatureConfig, config["features"], where="features")
        normalizer = None if config["statistics"] is None else Normalizer.from_statistics(config["statistics"])
    except TimbreflowError as error:
        raise TimbreflowError(f"{folder / CONFIG} cannot be used: {error}") from error
    _load_weights(model, folder / WEIGHTS)
    return ModelBundle(config["kind"], model.eval(), features, normalizer, config["training"])


def weights_sha256(folder: Path) -> str:
    """sha256 of a bundle's weights file: the identity of the model.

    Raises:
        TimbreflowError: there are no weights.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise TimbreflowError(f"{path} is missing; train the model, or name the folder of a trained one.")
    return sha256_file(path)


def _halved(value: Tensor) -> Tensor:
    if value.dtype != torch.float32:
        return value
    half = value.half()
    return half if bool(torch.isfinite(half).all()) else value


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise TimbreflowError(f"{path} is missing; train the model, or name the folder of a trained one.")
    try:
        weights = load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise TimbreflowError(f"{path} is not a safetensors file ({error}); train the model again.") from error
    wanted = model.state_dict()
    different = sorted(set(wanted) ^ set(weights)) or sorted(
        name for name, tensor in wanted.items() if tensor.shape != weights[name].shape
    )
    if different:
        raise TimbreflowError(
            f"{path} does not fit its {CONFIG}: {len(different)} tensors are missing, unknown or of another shape "
            f"(first: {different[0]}); keep the two files of one model together."
        )
    broken = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise TimbreflowError(f"{path} holds weights that are not finite (first: {broken[0]}); train the model again.")
    model.load_state_dict(weights)
