"""The note reader: which pitches sound, read off the log-mel itself along the partials of each pitch.

The transfer models' own piano roll comes from their quantised code, which holds a few bits a frame. The reader sees the
spectrum: the bands of each pitch's partials are gathered into channels, so that all pitches are read by the same
small convolutions over pitch and time (Bittner et al. 2017, *Deep Salience Representations for F0 Estimation in
Polyphonic Music*), between which channels of other pitches at harmonic intervals are mixed (Wei et al. 2022,
*HarmoF0*), so that an octave or a fifth of a note that sounds is not taken for a note.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import full_precision
from timbreflow.models.content import N_PITCHES
from timbreflow.models.lookup import band_of

LOWEST, HIGHEST = 20, 108
"""Pitches that are read; of the others the transfer model's roll is only calibrated."""
PARTIALS = (0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12)
"""Multiples of a pitch's frequency whose bands are gathered; .5 is the octave below."""
FINE = (-1 / 3, 0.0, 1 / 3)
"""Semitones beside each of them: above 500 Hz bands are narrower than semitones."""
INTERVALS = (-31, -28, -24, -19, -12, 12, 19, 24, 28, 31)
"""Semitones between pitches that share partials."""
MAX_LOGIT = 6.0
TOO_SURE = math.log(10)
"""What log-odds of the transfer models' rolls exceed true ones by, since in their loss a sounding pitch weighs 10."""


@dataclass(frozen=True)
class NoteReaderConfig:
    """Shape of a note reader.

    Attributes:
        width: channels.
        dilations: frames between the taps of each block's convolution over time.
    """

    width: int
    dilations: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what has no channels or no frames."""
        if self.width < 4 or min(self.dilations, default=1) < 1:
            raise TimbreflowError("note_reader: width must be at least 4 and every one of dilations at least 1.")


class _Block(nn.Module):
    """Channels of pitches at harmonic intervals, then a convolution over pitch and time, added to the input."""

    def __init__(self, channels: int, *, dilation: int) -> None:
        super().__init__()
        self.share = nn.Conv2d(channels, channels // 4, 1)
        self.mix = nn.Conv2d(channels + len(INTERVALS) * (channels // 4), channels, 1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=(1, dilation), dilation=(1, dilation))
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, P, T] -> [B, C, P, T]."""
        activated = F.relu(x)
        shared = self.share(activated)
        furthest = max(INTERVALS)
        padded = F.pad(shared, (0, 0, furthest, furthest))
        pitches = x.shape[2]
        others = [padded[:, :, furthest + interval : furthest + interval + pitches] for interval in INTERVALS]
        return x + self.conv(F.relu(self.mix(torch.cat([activated, *others], dim=1))))


class NoteReader(nn.Module):
    """Corrects a transfer model's piano roll; its last layer begins at 0, so an untrained reader only calibrates it.

    Args:
        config: its shape.
        n_bands: M.
        fmin: lower edge of the first band, in Hz.
        fmax: upper edge of the last band, in Hz.
    """

    def __init__(self, config: NoteReaderConfig, *, n_bands: int, fmin: float, fmax: float) -> None:
        super().__init__()
        self.gather: Tensor
        self.register_buffer("gather", gather_maps(n_bands=n_bands, fmin=fmin, fmax=fmax), persistent=False)
        self.in_proj = nn.Conv2d(len(self.gather) + 1, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(config.width, dilation=dilation) for dilation in config.dilations)
        self.out_proj = nn.Conv2d(config.width, 1, 1)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.constant_(self.out_proj.bias, -TOO_SURE)  # type: ignore[arg-type]

    def forward(self, features: Tensor, roll: Tensor) -> Tensor:
        """Log-odds of each pitch sounding.

        Args:
            features: [B, M, T] normalised log-mels.
            roll: [B, 128, T] probabilities by the transfer model.

        Returns:
            [B, 128, T] float32.
        """
        logits = full_precision(roll).logit(eps=1e-4)
        known = logits[:, LOWEST : HIGHEST + 1].clamp(-MAX_LOGIT, MAX_LOGIT) / MAX_LOGIT
        gathered = self.gather.to(features.dtype) @ features[:, None]
        maps = torch.cat([gathered, known[:, None].to(gathered.dtype)], dim=1)
        h = self.in_proj(maps.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h)
        change = full_precision(self.out_proj(F.relu(h)))[:, 0]
        return logits + F.pad(change, (0, 0, LOWEST, N_PITCHES - 1 - HIGHEST), value=-TOO_SURE)


def gather_maps(*, n_bands: int, fmin: float, fmax: float) -> Tensor:
    """Bands of the partials of each pitch that is read: [len(PARTIALS) * len(FINE), P, M].

    Each is shared between its two neighbouring bands; what lies beyond the bands is 0.
    """
    pitches = np.arange(LOWEST, HIGHEST + 1)
    maps = []
    for partial in PARTIALS:
        for fine in FINE:
            place = band_of(
                partial * 440.0 * 2.0 ** ((pitches + fine - 69) / 12), n_bands=n_bands, fmin=fmin, fmax=fmax
            )
            maps.append(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n_bands))))
    return torch.from_numpy(np.stack(maps).astype("f4"))
