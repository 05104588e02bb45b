"""Plain values of a file -> frozen dataclasses, strictly: nothing unknown, nothing missing, nothing converted."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from timbreflow.errors import TimbreflowError

T = TypeVar("T")


def parse(kind: type[T], values: Any, *, otherwise: str, old_names: Mapping[str, str] | None = None) -> T:
    """Read a dataclass of plain and nested fields from the values that JSON or YAML gave.

    Args:
        kind: the dataclass.
        values: mapping with exactly its fields.
        otherwise: what else a person can do where a value is missing, for the sentence.
        old_names: former names of fields, and their names now.

    Raises:
        TimbreflowError: one sentence on the first wrong value, which names its place; or what a dataclass refuses.
    """
    _forbid_unknown_keys(kind, set())
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise TimbreflowError(_sentence(error, otherwise, old_names or {})) from error


def require_least(section: str, settings: object, least: int, *names: str) -> None:
    """Refuse the first of these settings that is below `least`, infinite or NaN.

    Raises:
        TimbreflowError: names the setting and its value.
    """
    for name in names:
        value = getattr(settings, name)
        if not least <= value < math.inf:
            raise TimbreflowError(f"{section}.{name} is {value}; set it to {least} or more.")


def _forbid_unknown_keys(kind: Any, seen: set[Any]) -> None:
    """Pydantic takes `extra` from each dataclass itself, and these, which know nothing of pydantic, set none."""
    for argument in get_args(kind) if get_origin(kind) else (kind,):
        if get_origin(argument):
            _forbid_unknown_keys(argument, seen)
        elif dataclasses.is_dataclass(argument) and argument not in seen:
            seen.add(argument)
            with_config(ConfigDict(extra="forbid", strict=True))(argument)  # type: ignore[type-var]
            for hint in get_type_hints(argument).values():
                _forbid_unknown_keys(hint, seen)


def _sentence(error: ValidationError, otherwise: str, old_names: Mapping[str, str]) -> str:
    problems = error.errors(include_url=False)
    unknown = [p for p in problems if p["type"] in ("unexpected_keyword_argument", "extra_forbidden")]
    for problem in unknown:
        if str(problem["loc"][-1]) in old_names:
            where = ".".join(map(str, problem["loc"]))
            return f"{where} is now called {old_names[str(problem['loc'][-1])]}; rename it."
    problem = problems[0]
    where = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{where} is not a known parameter; correct its name or remove it."
        case "missing" | "missing_argument":
            return f"{where} is missing; add it, or {otherwise}."
        case "value_error":
            return f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}"
        case _:
            return f"{where} = {json.dumps(problem['input'])[:80]} is wrong: {problem['msg']}."
