"""Logarithmic features in 8 bits: half the size of half precision.

256 evenly spaced values over a fixed range: no clip needs a scale of its own, and silence, which is the floor, is
exact.
"""

import math
from dataclasses import dataclass

import numpy as np

from timbreflow.audio.features import FeatureConfig
from timbreflow.errors import TimbreflowError

RANGE = 12.0
"""From the lowest to the highest value, in nats: 104 dB in steps of .41 dB. A mel band of a clip at full scale reaches
some 7 nats, and the floor of .01 is -4.6."""
HIGHEST = 255


@dataclass(frozen=True)
class Quantization:
    """Code k stands for the value low + k * step.

    Args:
        low: value of code 0, in nats.
        step: in nats.
    """

    low: float
    step: float

    @classmethod
    def of(cls, features: FeatureConfig) -> "Quantization":
        """The quantization of features of these settings."""
        low = math.log(features.floor) if features.kind == "log_mel" else 0.0
        return cls(low=low, step=RANGE / HIGHEST)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Nearest codes: float array -> uint8 array of its shape.

        Raises:
            TimbreflowError: a value is not finite or outside the range.
        """
        codes = np.rint((np.asarray(values, np.float64) - self.low) / self.step)
        if not np.isfinite(codes).all() or codes.min(initial=0) < 0 or codes.max(initial=0) > HIGHEST:
            raise TimbreflowError(
                f"Features outside {self.low:.2f} to {self.low + RANGE:.2f} nats do not fit in 8 bits; "
                "store them as float16, or lower the level of the sound."
            )
        return codes.astype(np.uint8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values of codes: uint8 array -> float32 array."""
        return (codes.astype(np.float32) * np.float32(self.step) + np.float32(self.low)).astype(np.float32)
