"""Logarithmic features in 8 bits: half the room of half precision.

256 even levels of a fixed range, so that no clip needs a scale of its own and silence, which is the floor, is exact.
"""

import math
from dataclasses import dataclass

import numpy as np

from timbreflow.audio.features import FeatureConfig
from timbreflow.errors import TimbreflowError

RANGE = 12.0
"""From the lowest to the highest level, in nats: 104 dB in steps of .41 dB. A mel band of a clip at full scale reaches
some 7 nats, and the floor of .01 is -4.6."""
HIGHEST = 255


@dataclass(frozen=True)
class Levels:
    """Value of level k is low + k step.

    Args:
        low: value of level 0, in nats.
        step: in nats.
    """

    low: float
    step: float

    @classmethod
    def of(cls, features: FeatureConfig) -> "Levels":
        """The levels of features of these settings."""
        low = math.log(features.floor) if features.kind == "log_mel" else 0.0
        return cls(low=low, step=RANGE / HIGHEST)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Nearest levels: float array -> uint8 array of its shape.

        Raises:
            TimbreflowError: a value is not finite or lies outside the levels.
        """
        levels = np.rint((np.asarray(values, np.float64) - self.low) / self.step)
        if not np.isfinite(levels).all() or levels.min(initial=0) < 0 or levels.max(initial=0) > HIGHEST:
            raise TimbreflowError(
                f"Features beyond {self.low:.2f} to {self.low + RANGE:.2f} nats do not fit in 8 bits; "
                "set extract_mels.storage to float16 in params.yaml, or mend the sound."
            )
        return levels.astype(np.uint8)

    def decode(self, levels: np.ndarray) -> np.ndarray:
        """Values of levels: uint8 array -> float32 array."""
        return (levels.astype(np.float32) * np.float32(self.step) + np.float32(self.low)).astype(np.float32)
