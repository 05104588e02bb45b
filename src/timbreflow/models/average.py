"""The mean of two trainings' weights.

Weights that one training reached from the other's often have a mean that is better than either in some respect
(Wortsman et al., 2022, "Model soups").
"""

from collections.abc import Collection
from dataclasses import replace

import torch

from timbreflow.audio.features import Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.models.bundle import ModelBundle

CLOSE = 0.05
"""Standard deviations by which feature statistics may differ; those of two draws of a preset's data lie .01 apart."""


@torch.no_grad()
def average(
    bundle: ModelBundle, other: ModelBundle, *, parts: Collection[str] = (), share: float = 0.5, origin: str = ""
) -> ModelBundle:
    """A model with the mean of two models' weights, in place in the first, whose integers and feature statistics stay.

    Args:
        bundle: base weights: all that is not averaged stays as in this model.
        other: a model of the same shape.
        parts: first words of the names of weights to average, such as "flow"; empty for all.
        share: of the other model, 0 to 1; 1 takes the parts over.
        origin: sha256 of the other model's weights, for the record.

    Raises:
        TimbreflowError: the models differ in kind, shape or features, their statistics by more than `CLOSE`, a part is
            unknown, or the share is no share.
    """
    if not 0 <= share <= 1:
        raise TimbreflowError(f"The share of the other model is {share}; it must lie between 0 and 1.")
    if bundle.kind != other.kind or bundle.model.config != other.model.config:
        raise TimbreflowError("The models differ in kind or in settings; only weights of the same model have a mean.")
    if bundle.features != other.features or _apart(bundle.normalizer, other.normalizer) > CLOSE:
        raise TimbreflowError("The models differ in their features or feature statistics; their weights have no mean.")
    names = {name: name.split(".")[0] for name in bundle.model.state_dict()}
    unknown = sorted(set(parts) - set(names.values()))
    if unknown:
        raise TimbreflowError(
            f"The model has no part {unknown[0]!r}; choose from {', '.join(sorted(set(names.values())))}."
        )
    others = other.model.state_dict()
    for name, value in bundle.model.state_dict().items():
        if value.is_floating_point() and (not parts or names[name] in parts):
            value.lerp_(others[name], share)
    training = {name: fact for name, fact in bundle.training.items() if name != "best_loss"}
    mean = {"parts": sorted(parts) or "all weights", "share": share} | ({"other": origin} if origin else {})
    return replace(bundle, training={**training, "averaged": [*training.get("averaged", []), mean]})


def _apart(first: Normalizer | None, second: Normalizer | None) -> float:
    """Largest difference of two sets of statistics in standard deviations; infinite where only one is there."""
    if first is None or second is None:
        return 0.0 if first is second else float("inf")
    means = (first.mean - second.mean).abs() / first.std
    return float(torch.cat([means, (second.std / first.std - 1).abs()]).max())
