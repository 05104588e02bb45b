"""The digest of metrics: figures with different ones are not compared."""

import hashlib
import json
from pathlib import Path
from typing import Any

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.files import sha256_file
from timbreflow.metrics.transcription import network_file

METRIC_VERSION = 1
"""Raised with every change of a metric that moves its figures; a metric that is added moves none."""
MODEL_PATH_VERSION = 3
"""Raised with every change of the path of models from sound to sound: baselines do not take it. 2 keeps expression, 3
ends ages in the look-up where the style's do."""
MOVING = ("temperature", "variance_scale", "seed", "batch_size", "griffin_lim_iterations", "griffin_lim_momentum")
"""Settings of `EvaluationConfig` that move figures: what is drawn and how it is inverted (noise goes by batches)."""
OF_MODELS = ("temperature", "variance_scale")
"""Those of them that move models only."""


def digest_of_metrics(timbre_weights: Path, config: EvaluationConfig, *, drawn: bool = True) -> str:
    """sha256 that changes with all that moves a figure of given weights on given clips.

    That is the metric code's version, the timbre metric's weights, the transcriber's, and the settings `MOVING`; which
    triples of which sets is in the digest of the clips. Figures that are `drawn` may be of models, which have a
    temperature and a variance scale; baselines have not.

    Raises:
        TimbreflowError: the weights are missing.
    """
    if not timbre_weights.is_file():
        raise TimbreflowError(f"{timbre_weights} is missing; run `dvc repro train_timbre_metric`.")
    settings: dict[str, Any] = {"model_path": MODEL_PATH_VERSION} if drawn else {}
    settings |= {name: getattr(config, name) for name in MOVING if drawn or name not in OF_MODELS}
    parts = [METRIC_VERSION, sha256_file(timbre_weights), sha256_file(network_file()), settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
