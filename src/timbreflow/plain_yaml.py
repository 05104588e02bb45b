"""YAML that people write, as plain values; what would not end, or unfold without limit, is refused."""

from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 200_000
"""After all aliases are replaced by what they stand for: a few lines can stand for more than any memory holds."""
DEEPEST = 50


def load_yaml(text: str) -> Any:
    """Parse YAML.

    Raises:
        YAMLError: it is not YAML.
        ValueError: a date is none, or the text is too long, too deep or stands for too many values.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters; the limit is {MOST_CHARACTERS}")
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (TypeError, AttributeError, LookupError) as error:
        # What the parser meets in tags and keys that it does not expect.
        raise ValueError(f"it holds what no file of values has: {error}") from error
    waiting, seen = [(values, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        if seen + len(waiting) > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES} values")
        if isinstance(value, Mapping):
            value = [*value.keys(), *value.values()]
        if isinstance(value, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in value]
    return values
