"""Settings of the fit loop, and the learning rate that follows from them."""

import math
from dataclasses import dataclass
from typing import Literal

from timbreflow.errors import TimbreflowError

DECAY = 0.2
"""Share of all steps in which the rate of the schedule "trapezoid" falls."""


@dataclass(frozen=True)
class FitConfig:
    """Settings of the loop. The budget is in steps, never in minutes, so that a run can be repeated.

    Args:
        steps: optimizer steps.
        batch_size: examples a batch; a step sees batch_size * grad_accumulation of them.
        learning_rate: peak rate of AdamW, reached after warm-up.
        warmup_steps: steps of linear warm-up from 0.
        schedule: after warm-up, "cosine" falls to 0 at the last step, "constant" stays, and "trapezoid" stays for four
            fifths of all steps and then falls in a line to 0 (Zhai et al. 2022, section 3.5).
        weight_decay: of matrices and kernels; biases, gains and other vectors are not decayed.
        grad_clip: largest norm of the whole gradient; 0 = do not clip.
        ema_decay: d of ema <- d ema + (1 - d) weights, lowered in the first steps to (1 + n) / (10 + n).
        precision: "auto" is bfloat16 where the device has instructions for it, else float32. "bfloat16" runs the
            forward pass under autocast; weights and optimizer stay float32. "float64" trains in double precision,
            codebooks aside: slow, for comparing trainings whose codes rounding would change.
        log_every: steps between two calls of the metric logger.
        validate_every: steps between two validations (the last step is always validated).
        checkpoint_every: steps between two checkpoints.
        patience: stop after so many validations without a better one; 0 = never.
        seed: of everything random in the loop.
        grad_accumulation: batches a step.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    schedule: Literal["cosine", "constant", "trapezoid"]
    weight_decay: float
    grad_clip: float
    ema_decay: float
    precision: Literal["auto", "float32", "bfloat16", "float64"]
    log_every: int
    validate_every: int
    checkpoint_every: int
    patience: int
    seed: int
    grad_accumulation: int

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in ("steps", "batch_size", "log_every", "validate_every", "checkpoint_every", "grad_accumulation"):
            if getattr(self, name) < 1:
                raise TimbreflowError(f"fit.{name} is {getattr(self, name)}; set it to 1 or more in params.yaml.")
        for name in ("learning_rate", "warmup_steps", "weight_decay", "grad_clip", "patience"):
            if getattr(self, name) < 0:
                raise TimbreflowError(f"fit.{name} is {getattr(self, name)}; set it to 0 or more in params.yaml.")
        if not 0 <= self.ema_decay < 1:
            raise TimbreflowError(
                f"fit.ema_decay is {self.ema_decay}; set it to at least 0 and below 1 in params.yaml."
            )


def learning_rate(config: FitConfig, step: int) -> float:
    """Rate of step number `step` (from 0): linear warm-up, then what `config.schedule` says."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "trapezoid":
        return config.learning_rate * min(1.0, (config.steps - step) / (DECAY * config.steps))
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
