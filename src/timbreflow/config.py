"""params.yaml -> frozen, typed sections. The only reader of params.yaml."""

import dataclasses
import json
from collections.abc import Mapping
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.mels import ExtractConfig
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.gate_config import RegisterConfig
from timbreflow.files import write_text
from timbreflow.models.bundle import OLD_SETTINGS
from timbreflow.models.catalogue import GATED
from timbreflow.monitoring.config import MonitorConfig
from timbreflow.notes.collect import CollectConfig
from timbreflow.plain_yaml import load_yaml
from timbreflow.rendering.config import RenderConfig
from timbreflow.schema import parse
from timbreflow.training.config import (
    GlowTraining,
    RefinerTraining,
    TimbreMetricTraining,
    VocoderTraining,
    VQVAETraining,
)
from timbreflow.validation.config import ValidationConfig

PRESETS = resources.files("timbreflow") / "presets"

OLD_NAMES = {
    **OLD_SETTINGS,
    "contrast": "variance_scale",
    "counterparts": "complete_squares",
    "on_the_fly": "online_triples",
}
"""Former names of parameters, for error messages."""


@dataclasses.dataclass(frozen=True)
class VQVAEVariants:
    """The two presets of one class that `train_vqvae` trains."""

    paper: VQVAETraining
    base: VQVAETraining


@dataclasses.dataclass(frozen=True)
class Params:
    """Everything in params.yaml, one field a section; all are stages but `audio`, which stages share, and `monitor`."""

    collect_midi: CollectConfig
    render_triples: RenderConfig
    audio: FeatureConfig
    extract_mels: ExtractConfig
    validate_data: ValidationConfig
    train_timbre_metric: TimbreMetricTraining
    train_vqvae: VQVAEVariants
    train_glow: GlowTraining
    train_refiner: RefinerTraining
    train_vocoder: VocoderTraining
    evaluate: EvaluationConfig
    register_models: RegisterConfig
    monitor: MonitorConfig


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        TimbreflowError: the file is missing, is not YAML, has unknown or missing keys, wrong types, or values that
            contradict each other.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TimbreflowError(f"{path} is missing; write it with `timbreflow preset default`.") from error
    except UnicodeDecodeError as error:
        raise TimbreflowError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise TimbreflowError(f"{path} cannot be read ({error.strerror}); make it a readable file.") from error
    if not text.strip():
        raise TimbreflowError(f"{path} is empty; write it anew with `timbreflow preset default`.")
    try:
        values = _plain(text)
    except DuplicateKeyError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        key = str(error.problem).removeprefix("found duplicate key ").split(" with value")[0]
        raise TimbreflowError(f"{path} has the key {key} twice{line}; remove one of the two.") from error
    except (YAMLError, ValueError) as error:
        # ValueError: what looks like a date and is none, such as 2021-13-45, or values without end.
        detail = " ".join(str(error).split())
        raise TimbreflowError(f"{path} is not valid YAML ({detail}); correct that line.") from error
    return parse_params(values, source=str(path))


def parse_params(values: Any, *, source: str) -> Params:
    """Check a mapping of plain values against the sections; `source` names it in errors."""
    if not isinstance(values, Mapping):
        raise TimbreflowError(f"{source} holds no sections; start again from `timbreflow preset default`.")
    _require_plain(values, (), source)
    try:
        params = parse(Params, values, otherwise="start again from `timbreflow preset default`", old_names=OLD_NAMES)
    except TimbreflowError as error:
        if Path(source).name in str(error):
            raise
        raise TimbreflowError(f"{source}: {error}") from error
    _cross_check(params, source)
    return params


def as_mapping(params: Any) -> dict[str, Any]:
    """A section, or all of them, as the plain nested values that params.yaml holds."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(params)))
    return result


def preset_names() -> list[str]:
    """Names that `write_preset` accepts."""
    return sorted(Path(entry.name).stem for entry in PRESETS.iterdir() if entry.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The whole params.yaml of a preset: default.yaml, or the preset that its own file calls `base`, with differences.

    Raises:
        TimbreflowError: there is no such preset.
    """
    if name not in preset_names():
        raise TimbreflowError(f"There is no preset {name!r}; choose one of {', '.join(preset_names())}.")
    yaml = YAML()
    yaml.width = 120
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    if name == "default":
        return text
    changes = yaml.load(text)
    whole = yaml.load(preset_text(changes.pop("base", "default")))
    _lay_over(whole, changes, name)
    stream = StringIO()
    yaml.dump(whole, stream)
    return stream.getvalue()


def preset_params(name: str) -> Params:
    """A preset, checked like a file.

    Raises:
        TimbreflowError: there is no such preset.
    """
    return parse_params(_plain(preset_text(name)), source=f"preset {name}")


def write_preset(name: str, path: Path, *, force: bool = False) -> None:
    """Rewrite params.yaml from a preset, after checking it.

    Args:
        name: of the preset.
        path: of params.yaml.
        force: also where the file has settings that no preset has, such as sources of the user's own.

    Raises:
        TimbreflowError: there is no such preset; the file has settings of the user's own.
    """
    preset_params(name)
    if not force and path.is_file() and (own := _own_settings(path)):
        raise TimbreflowError(
            f"{path} would lose your own {own}; copy what you want to keep, then replace it by `timbreflow preset "
            f"{name} --force`."
        )
    write_text(path, preset_text(name))


def _own_settings(path: Path) -> str:
    """Which settings of params.yaml the preset that is nearest to it does not have, in words; empty where none."""
    try:
        flat = _flat(_plain(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, YAMLError, ValueError):
        return "settings, which cannot be read"
    presets = (_flat(_plain(preset_text(name))) for name in preset_names())
    own = min(([key for key, value in flat.items() if preset.get(key) != value] for preset in presets), key=len)
    return ", ".join(own[:5]) + (f" and {len(own) - 5} more" if len(own) > 5 else "")


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names and values; a list is one value."""
    if not isinstance(values, Mapping):
        return {prefix: values} if prefix else {}
    return {
        name: inner
        for key, value in values.items()
        for name, inner in (_flat(value, f"{prefix}.{key}".lstrip(".")) or {f"{prefix}.{key}".lstrip("."): {}}).items()
    }


def _plain(text: str) -> Any:
    return load_yaml(text)


def _lay_over(base: Any, changes: Mapping[str, Any], preset: str) -> None:
    for key, value in changes.items():
        if key not in base:
            raise TimbreflowError(f"Preset {preset} sets {key}, which default.yaml does not have.")
        # A mapping that is empty by default, such as fractions, takes any keys; an empty one clears it.
        if isinstance(value, Mapping) and value and base[key]:
            _lay_over(base[key], value, preset)
        else:
            base[key] = value


def _require_plain(value: Any, place: tuple[str, ...], source: str) -> None:
    """Refuse dates, binary data and sets, which YAML has and no parameter is."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _require_plain(inner, (*place, str(key)), source)
            if not isinstance(key, str | int | float | bool | None):
                raise TimbreflowError(
                    f"{source}: the key {'.'.join((*place, str(key)))} is a {type(key).__name__}; put it in quotes."
                )
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            _require_plain(inner, (*place, str(position)), source)
    elif not isinstance(value, str | int | float | bool | None):
        raise TimbreflowError(
            f"{source}: {'.'.join(place)} = {value} is a {type(value).__name__}; give a number or quoted text."
        )


def _cross_check(params: Params, source: str) -> None:
    """Check what concerns several sections."""
    if params.audio.kind != "log_mel":
        raise TimbreflowError(f"{source}: audio.kind must be log_mel, the features that extract_mels stores.")
    if params.render_triples.sample_rate != params.audio.sample_rate:
        raise TimbreflowError(f"{source}: render_triples.sample_rate must equal audio.sample_rate.")
    frames = params.render_triples.clip_seconds * params.audio.sample_rate / params.audio.hop_length
    if frames != int(frames):
        raise TimbreflowError(
            f"{source}: render_triples.clip_seconds must be a whole number of frames of audio.hop_length samples."
        )
    for name, n_features in (
        ("vqvae.base", params.train_vqvae.base.model.n_features),
        ("glow", params.train_glow.model.n_features),
        ("refiner", params.train_refiner.model.n_features),
        ("vocoder", params.train_vocoder.model.n_features),
    ):
        if n_features != params.audio.n_mels:
            raise TimbreflowError(f"{source}: train_{name}.model.n_features must equal audio.n_mels.")
    gate = params.register_models.gate
    if gate.set not in params.evaluate.sets:
        raise TimbreflowError(
            f"{source}: register_models.gate.set is {gate.set}, which evaluate.sets does not name; add it there."
        )
    for model in GATED:
        if model.name not in params.evaluate.systems:
            raise TimbreflowError(
                f"{source}: evaluate.systems lacks {model.name}, which register_models needs; add it there."
            )
