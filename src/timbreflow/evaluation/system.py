"""What a system is: anything that turns content and style into sound. `systems.SYSTEMS` lists them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from timbreflow.audio.features import FeatureConfig
from timbreflow.audio.inversion import Inverter

Role = Literal["content", "style", "target"]


@dataclass(frozen=True)
class SystemContext:
    """What systems are built from.

    Args:
        features: features of the pipeline; the oracle goes through them, models bring their own.
        model_folder: maps a model's name to the folder of its weights.
        device: where models run.
        temperature: of models that sample.
        variance_scale: factor on the normalised log-mels that a model made; other features stay.
        inverter: makes the one inversion that all rows of these features share.
    """

    features: FeatureConfig
    model_folder: Callable[[str], Path]
    device: torch.device
    temperature: float
    variance_scale: float
    inverter: Callable[[FeatureConfig], Inverter]


class System(Protocol):
    """One row.

    Attributes:
        copies: role whose sound is given back unchanged; None for systems that make sound.
        parameters: number of learned weights; 0 where nothing is learned.
        asks: only where `transfer` takes more of a batch, by the names of the fields of `clips.TripleBatch`.
    """

    copies: Role | None
    parameters: int

    def transfer(self, content: Tensor, style: Tensor, target: Tensor, *, seed: int) -> Tensor:
        """Sound [B, N] from sounds [B, N] at the pipeline's rate. Only the oracle may look at the target."""
