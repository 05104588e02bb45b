"""One loudness for what baselines make, since their methods leave it open."""

import torch
from torch import Tensor

PEAK = 0.99


def as_loud_as(audio: Tensor, reference: Tensor) -> Tensor:
    """Audio [N] at the root mean square of a reference [N], less where a peak would clip; silence stays silent."""
    level, wanted = (sound.double().square().mean().sqrt() for sound in (audio, reference))
    peak = audio.abs().max().double()
    gain = torch.minimum(wanted / level.clamp_min(1e-12), PEAK / peak.clamp_min(1e-12))
    return audio * gain.to(audio)
