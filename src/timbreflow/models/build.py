"""The only place that turns a kind and a plain dictionary into a model."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
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
    """Read a frozen dataclass of plain and nested fields from what JSON holds of it, strictly.

    Args:
        config_class: a dataclass.
        values: dictionary with exactly its fields.
        where: name of the dictionary, for the error message.

    Raises:
        TimbreflowError: unknown or missing key, or a value of the wrong type.
    """
    try:
        # As JSON, which has no tuples: strict validation takes lists for them there only.
        return TypeAdapter(config_class).validate_json(json.dumps(values), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join([where, *map(str, first["loc"])])
        what = {"unexpected_keyword_argument": "is unknown", "missing": "is missing"}.get(
            first["type"], f"is {first['input']!r} ({first['msg']})"
        )
        raise TimbreflowError(
            f"{place} {what}; write exactly the fields of {config_class.__name__}, or make the file again with this "
            "version."
        ) from error


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
