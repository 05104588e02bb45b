"""The only place that turns a kind and a plain dictionary into a model."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.glow.model import Glow, GlowConfig
from timbreflow.models.triplet import TripletConfig, TripletNetwork
from timbreflow.models.vocoder import Vocoder, VocoderConfig
from timbreflow.models.vqvae import VQVAE, VQVAEConfig

_KINDS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "vqvae": (VQVAE, VQVAEConfig),
    "glow": (Glow, GlowConfig),
    "triplet": (TripletNetwork, TripletConfig),
    "vocoder": (Vocoder, VocoderConfig),
}

ADDED_KEYS: dict[str, dict[str, Any]] = {
    "vqvae": {"content": {"roll_hint": 0}},
    "glow": {"content": {"roll_hint": 0}, "decoder_width": 0, "decoder_blocks": 0},
}
"""Keys that bundles of format 1 may lack, because they were written before these came, with the value that is off:
kind to key to value, or to a section's. A key that cannot be switched off needs a new format instead."""


def build_model(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """Build an untrained model.

    Args:
        kind: "vqvae", "glow", "triplet" or "vocoder".
        config: plain dictionary with exactly the fields of the kind's configuration.

    Raises:
        TimbreflowError: unknown kind; unknown, missing or wrong field.
    """
    model, config_class = _known(kind)
    return model(config_from_dict(config_class, config))


def with_added_keys(kind: str, config: Any) -> Any:
    """A stored configuration with the keys of `ADDED_KEYS` that it lacks, off; what it has stays as it is."""
    if not isinstance(config, Mapping):
        return config
    filled = dict(config)
    for key, value in ADDED_KEYS.get(kind, {}).items():
        if not isinstance(value, dict):
            filled.setdefault(key, value)
        elif isinstance(filled.get(key), Mapping):
            filled[key] = value | dict(filled[key])
    return filled


def kind_of(model: nn.Module) -> str:
    """The kind whose model this is.

    Raises:
        TimbreflowError: no kind has such a model.
    """
    for kind, (model_class, _) in _KINDS.items():
        if type(model) is model_class:
            return kind
    raise TimbreflowError(f"{type(model).__name__} is not a kind of model that timbreflow stores; use {_names()}.")


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as a plain dictionary that JSON can hold; tuples become lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def config_from_dict(config_class: type[Any], values: Any, *, where: str = "config") -> Any:
    """Read a frozen dataclass of plain and nested fields from a dictionary, strictly.

    Args:
        config_class: a dataclass of str, int, float, bool, Literal, tuple, None-able and nested dataclass fields.
        values: dictionary with exactly its fields.
        where: name of the dictionary, for the error message.

    Raises:
        TimbreflowError: unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise TimbreflowError(f"{where} must be a table of {config_class.__name__}, not {values!r}; mend it.")
    names = {field.name for field in dataclasses.fields(config_class)}
    unknown, missing = sorted(set(values) - names), sorted(names - set(values))
    if unknown or missing:
        raise TimbreflowError(
            f"{where} has unknown keys {unknown} and lacks {missing}; write exactly the fields of "
            f"{config_class.__name__}, or make the file again with this version."
        )
    hints = get_type_hints(config_class)
    return config_class(**{name: _read(hints[name], values[name], where=f"{where}.{name}") for name in sorted(names)})


def _read(hint: Any, value: Any, *, where: str) -> Any:
    """One field, checked against its annotation."""
    origin, arguments = get_origin(hint), get_args(hint)
    wrong = TimbreflowError(f"{where} is {value!r}, which is not {getattr(hint, '__name__', hint)}; mend it.")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_dict(hint, value, where=where)
    if origin is Literal:
        if value not in arguments:
            raise wrong
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _read(arguments[0], value, where=where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise wrong
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) != len(value):
            raise wrong
        return tuple(_read(h, v, where=f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if hint is float and type(value) in (int, float):
        return float(value)
    if type(value) is not hint:
        raise wrong
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _known(kind: str) -> tuple[type[nn.Module], type[Any]]:
    if kind not in _KINDS:
        raise TimbreflowError(f"{kind!r} is not a kind of model; use {_names()}.")
    return _KINDS[kind]


def _names() -> str:
    return ", ".join(_KINDS)
