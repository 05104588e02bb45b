"""Models on disk: a folder with `weights.safetensors` and `config.json`, all that is needed to use the model.

config.json holds {format, kind, model, features, statistics, training}; no pickle anywhere. `statistics` is null where
the model does not take normalised features (the timbre metric, the refiner). This is format 2; format 1, whose settings
and weights had other names, is read as well. A tensor NAME that is stored in 8 bits has the scales of its blocks of 64
values beside it, as NAME:scale.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, read_json, sha256_file, write_json
from timbreflow.models.glow.model import Glow, GlowConfig
from timbreflow.models.refiner import Refiner, RefinerConfig
from timbreflow.models.timbre_metric import TripletConfig, TripletNetwork
from timbreflow.models.vocoder import Vocoder, VocoderConfig
from timbreflow.models.vqvae import VQVAE, VQVAEConfig
from timbreflow.schema import parse
from timbreflow.system_errors import out_of_memory

FORMAT = 2
Storage = Literal["float32", "float16", "int8"]
SCALE = ":scale"
BLOCK = 64
MIN_QUANTIZED = 16_385
"""Values of a tensor that is worth 8 bits; smaller ones (norms, codebooks, 1x1 convolutions) stay in float16."""
HARMLESS_WEIGHTS = 1_000_000
INVERTIBLE = "flow."
"""Weights of a flow, which amplifies rounding: they stay in float16."""
WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
_KEYS = {"format", "kind", "model", "features", "statistics", "training"}
_KINDS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "vqvae": (VQVAE, VQVAEConfig),
    "glow": (Glow, GlowConfig),
    "refiner": (Refiner, RefinerConfig),
    "triplet": (TripletNetwork, TripletConfig),
    "vocoder": (Vocoder, VocoderConfig),
}

OLD_SETTINGS = {
    "bound": "max_log_scale",
    "hidden": "hidden_channels",
    "roll_bins": "max_bin_shift",
    "roll_hint": "pianoroll_channels",
    "roll_width": "pianoroll_head_width",
}
"""Settings of format 1 and their names in format 2, at any depth."""
_ADDED_SETTINGS: dict[str, dict[str, Any]] = {
    "vqvae": {"content": {"pianoroll_channels": 0}},
    "glow": {"content": {"pianoroll_channels": 0}, "decoder_width": 0, "decoder_blocks": 0},
}
"""Settings that bundles of format 1 may lack, with the value that switches them off."""
_OLD_MODULES = {
    "inlet": "in_proj",
    "inlet_norm": "in_norm",
    "outlet": "out_proj",
    "outlet_norm": "out_norm",
    "roll_head": "pianoroll_head",
    "roll_hint": "pianoroll_encoder",
}
"""Words between the dots of format 1's names of weights, and the same in format 2."""


@dataclass(frozen=True)
class ModelBundle:
    """A model and what is needed to use and to understand it.

    Attributes:
        kind: "vqvae", "glow", "refiner", "triplet" or "vocoder".
        model: the network; from `load_bundle` in evaluation mode, float32, on the CPU.
        features: of the model's input.
        normalizer: statistics of the training split; None for models of raw features.
        training: plain facts on the training (steps, seed, losses …), for JSON.
    """

    kind: str
    model: nn.Module
    features: FeatureConfig
    normalizer: Normalizer | None
    training: Mapping[str, Any] = field(default_factory=dict)


def build_model(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """Build an untrained model.

    Args:
        kind: "vqvae", "glow", "refiner", "triplet" or "vocoder".
        config: plain dictionary with exactly the fields of the kind's configuration.

    Raises:
        TimbreflowError: unknown kind; unknown, missing or wrong field.
    """
    if kind not in _KINDS:
        raise TimbreflowError(f"{kind!r} is not a kind of model; use {', '.join(_KINDS)}.")
    model, config_class = _KINDS[kind]
    return model(parse(config_class, config, otherwise="make the model again with this version"))


def kind_of(model: nn.Module) -> str:
    """The kind whose model this is.

    Raises:
        TimbreflowError: no kind has such a model.
    """
    for kind, (model_class, _) in _KINDS.items():
        if type(model) is model_class:
            return kind
    raise TimbreflowError(
        f"{type(model).__name__} is not a kind of model that timbreflow stores; use {', '.join(_KINDS)}."
    )


def save_bundle(folder: Path, bundle: ModelBundle, *, storage: Storage = "float32") -> str:
    """Write a bundle as one folder that appears whole or not at all, in place of an older one.

    Args:
        folder: where; its parent is made.
        bundle: what.
        storage: of float32 tensors. "float16" leaves those whose values it cannot hold; "int8" rounds blocks of large
            matrices and kernels to 255 levels (but those of a flow) and stores all others as "float16" does.

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
        if storage == "int8" and _is_large(name, value):
            weights[name], weights[name + SCALE] = _quantized(value)
        else:
            weights[name] = value if storage == "float32" else _halved(value)
    config = {
        "format": FORMAT,
        "kind": bundle.kind,
        "model": asdict(bundle.model.config),  # type: ignore[call-overload]
        "features": asdict(bundle.features),
        "statistics": None if bundle.normalizer is None else bundle.normalizer.statistics(),
        "training": dict(bundle.training),
    }
    with atomic_directory(Path(folder)) as temporary:
        save_file(weights, temporary / WEIGHTS)
        write_json(temporary / CONFIG, config)
        return sha256_file(temporary / WEIGHTS)


def load_bundle(folder: Path) -> ModelBundle:
    """Read a bundle and check it strictly.

    Raises:
        TimbreflowError: a file is missing or broken, the format or kind is unknown, or the weights do not fit.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    written = config.get("format") if isinstance(config, dict) else config
    if not isinstance(config, dict) or written not in (1, FORMAT):
        raise TimbreflowError(
            f"{folder / CONFIG} has format {written!r} and this version reads 1 and {FORMAT}; train the model again "
            "or install the version that wrote it."
        )
    if set(config) != _KEYS:
        raise TimbreflowError(f"{folder / CONFIG} must have the keys {sorted(_KEYS)}; make the model again.")
    settings = config["model"]
    if written == 1:
        settings = _from_format_1(config["kind"], settings)
    try:
        # Without memory first: settings of strangers can ask for any size.
        with torch.device("meta"), _no_larger_than(folder / WEIGHTS):
            build_model(config["kind"], settings)
        model = build_model(config["kind"], settings)
        features = parse(FeatureConfig, config["features"], otherwise="make the model again with this version")
        normalizer = None if config["statistics"] is None else Normalizer.from_statistics(config["statistics"])
    except TimbreflowError as error:
        raise TimbreflowError(f"{folder / CONFIG} cannot be used: {error}") from error
    _load_weights(model, folder / WEIGHTS, renamed=_OLD_MODULES if written == 1 else {})
    return ModelBundle(config["kind"], model.eval(), features, normalizer, config["training"])


@contextmanager
def _no_larger_than(path: Path) -> Iterator[None]:
    """Refuse a model as soon as it gets far more weights than its file can hold, and more than do any harm."""
    left = max(4.0 * path.stat().st_size, HARMLESS_WEIGHTS) if path.is_file() else math.inf

    def count(module: nn.Module, name: str, weight: Tensor | None) -> None:
        nonlocal left
        left -= 0 if weight is None else weight.numel()
        if left < 0:
            raise TimbreflowError(f"it describes a larger model than {path} holds; keep the two files of one together.")

    hooks = register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
        if (lacking := out_of_memory(error)) is not None:
            raise TimbreflowError(f"the memory is not enough for a model of these settings ({lacking}).") from error
        raise TimbreflowError(f"no model has these settings ({' '.join(str(error).split())[:200]}).") from error
    finally:
        for hook in hooks:
            hook.remove()


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


def _is_large(name: str, value: Tensor) -> bool:
    blocks = value.numel() >= MIN_QUANTIZED and value.numel() % BLOCK == 0
    return blocks and value.dtype == torch.float32 and value.ndim > 1 and not name.startswith(INVERTIBLE)


def _quantized(value: Tensor) -> tuple[Tensor, Tensor]:
    """Levels in int8, of the tensor's shape, and scales [blocks]; rounding what was rounded before changes nothing."""
    blocks = value.view(-1, BLOCK)
    # With 16 bits of mantissa, 127 times a scale is exact.
    scales = ((blocks.abs().amax(1) / 127).view(torch.int32) & -256).view(torch.float32)
    levels = (blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().clamp(-127, 127)
    return levels.to(torch.int8).view(value.shape), scales


def _dequantized(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def whole(name: str, value: Tensor) -> Tensor:
        scales = weights.get(name + SCALE)
        if scales is None or value.dtype != torch.int8 or scales.numel() * BLOCK != value.numel():
            return value
        return (value.view(-1, BLOCK).float() * scales.view(-1, 1)).view(value.shape)

    return {name: whole(name, value) for name, value in weights.items() if not name.endswith(SCALE)}


def _from_format_1(kind: str, settings: Any) -> Any:
    """A model's settings of format 1 as those of format 2."""

    def renamed(values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {OLD_SETTINGS.get(key, key): renamed(value) for key, value in values.items()}

    def filled(values: Any, added: Mapping[str, Any]) -> Any:
        if not isinstance(values, Mapping):
            return values
        inner = {
            key: filled(values[key], value) for key, value in added.items() if isinstance(values.get(key), Mapping)
        }
        return {**added, **values, **inner}

    return filled(renamed(settings), _ADDED_SETTINGS.get(kind, {}))


def _load_weights(model: nn.Module, path: Path, *, renamed: Mapping[str, str]) -> None:
    if not path.is_file():
        raise TimbreflowError(f"{path} is missing; train the model, or name the folder of a trained one.")
    try:
        stored = load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise TimbreflowError(f"{path} is not a safetensors file ({error}); train the model again.") from error
    weights = {
        ".".join(renamed.get(word, word) for word in name.split(".")): x for name, x in _dequantized(stored).items()
    }
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
