"""What an effect is set to: ranges of the parameters, and the coarse settings by which effects are held out.

A *setting* is an effect's name with the bin of each binned parameter, such as `tremolo/depth=1/rate_hz=3`. Whether a
setting may occur in training is decided for the whole bin, so a held-out effect differs audibly from seen ones.
"""

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from timbreflow.errors import TimbreflowError
from timbreflow.rendering import effects


@dataclass(frozen=True)
class ParameterRange:
    """Range of one parameter, and the number of bins that make its settings.

    Args:
        low: least value.
        high: greatest value.
        bins: equal parts of the range.
        logarithmic: the parts are equal in the logarithm.
    """

    low: float
    high: float
    bins: int
    logarithmic: bool = False

    def value(self, position: float) -> float:
        """Value at a position in [0, 1] of the range."""
        if self.logarithmic:
            return float(self.low * (self.high / self.low) ** position)
        return float(self.low + (self.high - self.low) * position)

    def bin(self, value: float) -> int:
        """Bin of a value; values beyond the range belong to the outer bins."""
        if self.logarithmic:
            position = np.log(value / self.low) / np.log(self.high / self.low)
        else:
            position = (value - self.low) / (self.high - self.low)
        return int(np.clip(np.floor(position * self.bins), 0, self.bins - 1))


RANGES: Mapping[str, Mapping[str, ParameterRange]] = {
    "overdrive": {"gain_db": ParameterRange(10, 40, bins=6)},
    "phaser": {
        "rate_hz": ParameterRange(0.1, 2, bins=3, logarithmic=True),
        "feedback": ParameterRange(0, 0.7, bins=2),
    },
    "reverb": {
        "decay_seconds": ParameterRange(0.2, 2.5, bins=3, logarithmic=True),
        "wet": ParameterRange(0.1, 0.5, bins=2),
        "room": ParameterRange(0, 1000, bins=1),
    },
    "tremolo": {
        "rate_hz": ParameterRange(1, 15, bins=4, logarithmic=True),
        "depth": ParameterRange(0.2, 0.6, bins=2),
    },
}
"""The four effects of Cífka et al. (2021), with that paper's ranges for overdrive and tremolo."""


@dataclass(frozen=True)
class Effect:
    """One effect and its parameters.

    Args:
        name: overdrive, phaser, reverb or tremolo.
        parameters: (name, value) pairs in the order of their names.
    """

    name: str
    parameters: tuple[tuple[str, float], ...]

    @property
    def setting(self) -> str:
        """Name of the effect with the bins of its parameters."""
        ranges = RANGES[self.name]
        return _setting(self.name, {key: ranges[key].bin(value) for key, value in self.parameters})

    def apply(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """The effect on audio [N] float32 at `sample_rate` Hz: [N] float32."""
        # An effect is named as its function.
        changed: np.ndarray = getattr(effects, self.name)(audio, sample_rate, **dict(self.parameters))
        return changed

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": self.name, "parameters": dict(self.parameters)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Effect":
        """The inverse of `as_json`.

        Raises:
            TimbreflowError: there is no such effect, or its parameters are others.
        """
        name, parameters = value["name"], value["parameters"]
        if name not in RANGES or set(parameters) != set(RANGES[name]):
            raise TimbreflowError(f"{value} is not an effect of this version; render the triples again.")
        return cls(name, tuple(sorted((key, float(number)) for key, number in parameters.items())))


def all_settings(name: str) -> list[str]:
    """Every setting of an effect, sorted."""
    ranges = RANGES[name]
    combinations = itertools.product(*(range(ranges[key].bins) for key in ranges))
    return sorted(_setting(name, dict(zip(ranges, bins, strict=True))) for bins in combinations)


def draw_effect(rng: np.random.Generator, name: str, allowed: Collection[str]) -> Effect:
    """Draw an effect whose setting is one of `allowed`: first the setting, then the parameters within its bins.

    Raises:
        ValueError: no setting of the effect is allowed.
    """
    choices = [setting for setting in all_settings(name) if setting in allowed]
    if not choices:
        raise ValueError(f"no setting of {name} is allowed")
    setting = choices[rng.integers(len(choices))]
    bins = {key: int(number) for key, _, number in (part.partition("=") for part in setting.split("/")[1:])}
    parameters = []
    for key in sorted(RANGES[name]):
        bounds = RANGES[name][key]
        # Kept off the edges of the bin, where rounding could put the value into the next one.
        position = (bins.get(key, 0) + rng.uniform(0.001, 0.999)) / bounds.bins
        parameters.append((key, bounds.value(position)))
    return Effect(name, tuple(parameters))


def _setting(name: str, bins: Mapping[str, int]) -> str:
    binned = [f"{key}={bins[key]}" for key in sorted(bins) if RANGES[name][key].bins > 1]
    return "/".join([name, *binned])
