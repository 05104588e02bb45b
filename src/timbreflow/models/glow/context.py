"""What conditions the flow at one level."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class FlowContext:
    """Conditions of all layers of one level; a pure value that layers never change.

    Attributes:
        features: [B, C, t] content and style for each frame of the level, into every gated tanh unit.
        style: [B, S] the style as one vector, for the style normalisation.
        mask: [B, 1, t] 1 where the frame counts and 0 where it does not (padding, silence); None counts all.
    """

    features: Tensor
    style: Tensor
    mask: Tensor | None = None


def masked(x: Tensor, context: FlowContext) -> Tensor:
    """X with the frames that do not count set to zero; [B, C, t]."""
    return x if context.mask is None else x * context.mask.to(x.dtype)


def count_frames(x: Tensor, context: FlowContext) -> Tensor:
    """[B] number of frames that count."""
    if context.mask is None:
        return x.new_full((x.shape[0],), x.shape[-1])
    return context.mask.to(x.dtype).sum((1, 2))


def coarser(mask: Tensor) -> Tensor:
    """Mask of the next level, [B, 1, t] -> [B, 1, t / 2]: a pair counts when either frame does."""
    return F.max_pool1d(mask, 2)
