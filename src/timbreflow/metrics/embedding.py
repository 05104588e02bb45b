"""The frozen timbre metric, read from its bundle."""

from pathlib import Path

import torch

from timbreflow.errors import TimbreflowError
from timbreflow.metrics.analysis import Embed
from timbreflow.models.bundle import load_bundle
from timbreflow.models.timbre_metric import TimbreEmbedder, TripletNetwork


def load_embed(folder: Path, *, device: torch.device) -> Embed:
    """Load the timbre metric as a function from sound [B, N] at 16 kHz to embeddings [B, D].

    Args:
        folder: bundle of kind triplet.
        device: where it runs.

    Raises:
        TimbreflowError: the bundle is missing or broken, or holds another kind of model.
    """
    bundle = load_bundle(folder)
    if not isinstance(bundle.model, TripletNetwork):
        raise TimbreflowError(f"{folder} holds a model of kind {bundle.kind}, not triplet; name the timbre metric.")
    return TimbreEmbedder(bundle.model, device=device)
