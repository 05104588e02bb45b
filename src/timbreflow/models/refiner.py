"""The refiner: what a transfer model predicted, made better with notes that are looked up in the style."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.audio.features import Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import full_precision
from timbreflow.models.content import N_PITCHES
from timbreflow.models.lookup import NoteLookup, Transposition, band_of, hand_set_skeleton
from timbreflow.models.note_reader import NoteReader, NoteReaderConfig
from timbreflow.models.style import StyleConfig, build_style_encoder

N_PARTIALS = 10
STYLE_DIM = 128
"""Length of the vector that conditions the blocks."""


@dataclass(frozen=True)
class RefinerConfig:
    """Shape of a refiner.

    Attributes:
        n_features: mel bands, M.
        fmin: lower edge of the first band, in Hz.
        fmax: upper edge of the last band, in Hz.
        floor: smallest mel magnitude.
        style: its own style encoder, so that the transfer models may have tokens of any shape.
        lookup: of notes in the style: "learned", "hand_set", or "none".
        heads: learned look-ups.
        widths: channels of the 2-D network at M / 2 bands, M / 4 and so on; () for none, where each value of the
            result is a mix of the inputs at its own place.
        note_reader: hears the notes of content and style better than the transfer models do; None takes theirs.
    """

    n_features: int
    fmin: float
    fmax: float
    floor: float
    style: StyleConfig
    lookup: Literal["learned", "hand_set", "none"]
    heads: int
    widths: tuple[int, ...]
    note_reader: NoteReaderConfig | None = None

    def __post_init__(self) -> None:
        """Refuse bands that cannot be halved, and look-ups without a head."""
        if self.heads < 1 or min(self.widths, default=1) < 1:
            raise TimbreflowError("refiner: heads and every one of widths must be at least 1.")
        if self.n_features % 2 ** len(self.widths):
            raise TimbreflowError(f"refiner: {self.n_features} bands cannot be halved {len(self.widths)} times.")


class _Block(nn.Module):
    """Two 3 x 3 convolutions with scale and shift by the style between them (FiLM), added to the input.

    The second one begins at 0. No normalisation over time, so a clip's frames do not depend on its length.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(STYLE_DIM, 2 * channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[B, C, M, T], [B, STYLE_DIM] -> [B, C, M, T]."""
        scale, shift = self.film(style)[:, :, None, None].to(x.dtype).chunk(2, dim=1)
        return x + self.conv2(F.relu(torch.addcmul(shift, self.conv1(x), 1 + scale)))


class _Network(nn.Module):
    """A U-net whose levels halve the bands and keep the frames."""

    def __init__(self, inputs: int, outputs: int, *, widths: tuple[int, ...], n_bands: int) -> None:
        super().__init__()
        steps = list(zip((inputs, *widths), widths, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, (4, 3), stride=(2, 1), padding=1) for a, b in steps)
        self.bands = nn.Parameter(torch.zeros(1, widths[0], n_bands // 2, 1))
        self.encoders = nn.ModuleList(_Block(width) for width in widths)
        self.middle = _Block(widths[-1])
        self.ups = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in steps[1:])
        self.decoders = nn.ModuleList(_Block(width) for width in widths[:-1])
        self.out_proj = nn.Conv2d(widths[0], 2 * outputs, 3, padding=1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[B, inputs, M, T], [B, STYLE_DIM] -> [B, outputs, M, T]."""
        x = x.contiguous(memory_format=torch.channels_last)
        levels: list[Tensor] = []
        for down, encoder in zip(self.downs, self.encoders, strict=True):
            x = down(F.relu(x) if levels else x)
            if not levels:
                x = x + self.bands.to(x.dtype)  # in float32 they would take the whole level there
            x = encoder(x, style)
            levels.append(x)
        x = self.middle(levels.pop(), style)
        for up, decoder in zip(reversed(self.ups), reversed(self.decoders), strict=True):
            x = decoder(levels.pop() + F.interpolate(up(F.relu(x)), scale_factor=(2, 1)), style)
        made = self.out_proj(F.relu(x)).unflatten(1, (-1, 2))
        return made.transpose(2, 3).flatten(2, 3)  # pairs of bands in their order


class Refiner(nn.Module):
    """What is to be added to a predicted log-mel, from style frames at the content's pitches and ages.

    Each value of the result is a sum: a correction, and for each look-up a share of the way from the prediction to
    that skeleton. Correction and shares come from a 2-D network that also sees prediction, content, the style's mean
    spectrum, the predicted notes as lines of partials, and (by FiLM) style tokens of an encoder of its own. Its last
    layer begins at 0, so an untrained refiner changes nothing.

    All log-mels are raw, so one refiner serves models of different statistics.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        bands, fmin, fmax = config.n_features, config.fmin, config.fmax
        self.transpose = Transposition(n_bands=bands, fmin=fmin, fmax=fmax, floor=config.floor)
        partials = partial_maps(n_bands=bands, fmin=fmin, fmax=fmax)
        self.partials: Tensor
        self.register_buffer("partials", partials, persistent=False)
        heads = {"learned": config.heads, "hand_set": 1, "none": 0}[config.lookup]
        self.lookup = NoteLookup(self.transpose, partials[0], heads=heads) if config.lookup == "learned" else None
        self.note_reader = (
            None if config.note_reader is None else NoteReader(config.note_reader, n_bands=bands, fmin=fmin, fmax=fmax)
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(config.n_features))
        self.register_buffer("std", torch.ones(config.n_features))
        inputs, outputs = 5 + heads, 1 + heads
        self.network: nn.Module
        if config.widths:
            tokens = config.style.n_tokens * config.style.dim
            self.style_encoder = build_style_encoder(config.style, n_features=config.n_features)
            self.style = nn.Sequential(nn.Flatten(), nn.Linear(tokens, STYLE_DIM), nn.GELU())
            self.network = _Network(inputs, outputs, widths=config.widths, n_bands=config.n_features)
            last = self.network.out_proj
        else:
            self.network = last = nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def use_statistics(self, normalizer: Normalizer) -> None:
        """Take the statistics that log-mels are normalised with inside the refiner."""
        self.mean.copy_(normalizer.mean)
        self.std.copy_(normalizer.std)

    def weights_of(self, earlier: "Refiner") -> dict[str, Tensor]:
        """Weights of a refiner with fewer levels, by their names in this one, which then computes the same.

        The block in the middle becomes the one that follows the way up from the next level, whose share begins at 0.
        """
        weights, depth = earlier.state_dict(), len(earlier.config.widths)
        if not 0 < depth < len(self.config.widths) or self.config.widths[:depth] != earlier.config.widths:
            return weights
        moved = {key.replace("network.middle.", f"network.decoders.{depth - 1}."): x for key, x in weights.items()}
        way_up = f"network.ups.{depth - 1}."
        return moved | {key: torch.zeros_like(x) for key, x in self.state_dict().items() if key.startswith(way_up)}

    def read(self, features: Tensor, roll: Tensor) -> Tensor:
        """The notes of a clip, as `forward` wants them.

        Args:
            features: [B, M, T] log-mels.
            roll: [B, 128, T] probabilities by the transfer model, which a refiner without a reader takes as they are.

        Returns:
            [B, 128, T] probabilities.
        """
        return roll if self.note_reader is None else self.note_logits(features, roll).sigmoid()

    def note_logits(self, features: Tensor, roll: Tensor) -> Tensor:
        """Log-odds of `read`, for its loss; the refiner must have a reader."""
        assert self.note_reader is not None
        logits: Tensor = self.note_reader(self._normalised(features), roll)
        return logits

    def forward(
        self,
        prediction: Tensor,
        content: Tensor,
        style: Tensor,
        content_roll: Tensor,
        style_roll: Tensor,
        *,
        continued: Tensor | None = None,
    ) -> Tensor:
        """What is to be added to the prediction, in raw units.

        Args:
            prediction: [B, M, T] log-mels of a transfer model.
            content: [B, M, T] log-mels.
            style: [B, M, S] log-mels.
            content_roll: [B, 128, T] probabilities of the content's notes.
            style_roll: [B, 128, S] probabilities of the style's notes.
            continued: [B] bool, whether a content begins in the middle of its recording; None is never.

        Returns:
            [B, M, T] float32.
        """
        found = self._skeletons(content, style, content_roll, style_roll, continued)
        predicted, normalised, reference = (self._normalised(x) for x in (prediction, content, style))
        skeletons = (found - self.mean[:, None]) / self.std[:, None]
        mean = reference.mean(-1, keepdim=True).expand_as(predicted)
        partials = self.partials.to(content_roll.dtype).transpose(1, 2) @ content_roll[:, None]
        maps = torch.cat([torch.stack([predicted, normalised, mean], 1), partials, skeletons], dim=1)
        conditions = [self.style(self.style_encoder(reference))] if self.config.widths else []
        made = full_precision(self.network(maps, *conditions))
        change = made[:, 0] + (made[:, 1:] * (skeletons - predicted[:, None])).sum(1)
        return change * self.std[:, None]

    def _skeletons(
        self, content: Tensor, style: Tensor, content_roll: Tensor, style_roll: Tensor, continued: Tensor | None
    ) -> Tensor:
        """The look-ups, [B, H, M, T] raw log-mels; arguments as in `forward`."""
        if self.lookup is not None:
            found: Tensor = self.lookup(content_roll, content, style_roll, style, continued)
            return found
        if self.config.lookup == "hand_set":
            return hand_set_skeleton(content_roll, style_roll, style, self.transpose)[:, None]
        return content.new_zeros(len(content), 0, *content.shape[1:])

    def _normalised(self, x: Tensor) -> Tensor:
        return (x - self.mean[:, None]) / self.std[:, None]


def partial_maps(*, n_bands: int, fmin: float, fmax: float) -> Tensor:
    """Where the partials of each pitch lie: [2, 128, M]; first the fundamental, then partial k of weight 1 / k.

    Each partial is shared between its two neighbouring bands.
    """
    pitch = 440.0 * 2.0 ** ((np.arange(N_PITCHES) - 69) / 12)
    maps = np.zeros((2, N_PITCHES, n_bands), np.float32)
    for k in range(1, N_PARTIALS + 1):
        place = band_of(k * pitch, n_bands=n_bands, fmin=fmin, fmax=fmax)
        share = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n_bands)))
        if k == 1:
            # A pitch below the first band's centre is read off that band, so every pitch has a level.
            maps[0] = np.maximum(0, 1 - np.abs(place.clip(0, n_bands - 1)[:, None] - np.arange(n_bands)))
        maps[1] += share / k
    return torch.from_numpy(maps)
