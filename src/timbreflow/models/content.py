"""The content path: encoder, quantiser and the piano-roll head that keeps the notes in the code."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.blocks import ResidualBlock, pad_frames
from timbreflow.models.encoders import ContentConfig, build_content_encoder
from timbreflow.models.quantizer import Quantizer, QuantizerConfig

N_PITCHES = 128
_ROLL_BIAS = -3.5
"""About the log-odds of a pitch sounding in a frame, so that the head need not spend its first steps on silence."""


@dataclass(frozen=True)
class ContentCode:
    """What the content path makes of a clip.

    Attributes:
        code: [B, D + H, t] what decoders get, t = ceil(T / downsample): the quantised code with a straight-through
            gradient, and H channels of the notes that the head hears in it.
        encoded: [B, D, t] before quantisation, each channel of deviation 1 over a batch.
        codes: [B, t] int64.
        commitment_loss: scalar.
        perplexity: scalar.
        roll_logits: [B, 128, T] log-odds of each MIDI pitch sounding in each frame; None without a head.
    """

    code: Tensor
    encoded: Tensor
    codes: Tensor
    commitment_loss: Tensor
    perplexity: Tensor
    roll_logits: Tensor | None


class RollHead(nn.Module):
    """Piano roll from the quantised code alone, so that its loss forces the notes through the bottleneck."""

    def __init__(self, *, code_dim: int, width: int, n_strides: int) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(code_dim, width, 3, padding=1)
        self.block = ResidualBlock(width)
        self.ups = nn.ModuleList(nn.ConvTranspose1d(width, width, 4, stride=2, padding=1) for _ in range(n_strides))
        self.outlet = nn.Conv1d(width, N_PITCHES, 1)
        nn.init.constant_(self.outlet.bias, _ROLL_BIAS)  # type: ignore[arg-type]

    def forward(self, code: Tensor, frames: int) -> Tensor:
        """[B, D, t] -> [B, 128, frames] logits."""
        h = self.block(self.inlet(pad_frames(code, 1, minimum=2)))
        for up in self.ups:
            h = up(F.gelu(h))
        return self.outlet(F.gelu(h))[..., :frames]


class RollHint(nn.Module):
    """What the head hears, as channels at the rate of the code.

    A decoder that reads the notes as such need not learn anew, through the reconstruction alone, what the head is
    taught by the true notes.
    """

    def __init__(self, channels: int, *, downsample: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(N_PITCHES, channels, downsample, stride=downsample)
        self.downsample = downsample

    def forward(self, logits: Tensor) -> Tensor:
        """[B, 128, T] -> [B, channels, ceil(T / downsample)]."""
        return self.conv(pad_frames(logits, self.downsample).sigmoid())


class ContentPath(nn.Module):
    """Content clip -> quantised code that holds notes, timing and dynamics, and little timbre."""

    def __init__(self, content: ContentConfig, quantizer: QuantizerConfig, *, n_features: int) -> None:
        super().__init__()
        self.encoder = build_content_encoder(content, n_features=n_features, code_dim=quantizer.code_dim)
        self.quantizer = Quantizer(quantizer)
        self.roll_head = None
        if content.roll_width:
            self.roll_head = RollHead(
                code_dim=quantizer.code_dim, width=content.roll_width, n_strides=content.n_strides
            )
        self.roll_hint = RollHint(content.roll_hint, downsample=content.downsample) if content.roll_hint else None
        self.code_dim = quantizer.code_dim + content.roll_hint

    def forward(self, x: Tensor) -> ContentCode:
        """Encode x: [B, M, T]."""
        encoded = self.encoder(x)
        found = self.quantizer(encoded)
        roll = None if self.roll_head is None else self.roll_head(found.quantized, x.shape[-1])
        code = found.quantized
        if self.roll_hint is not None and roll is not None:
            code = torch.cat([code, self.roll_hint(roll)], dim=1)
        return ContentCode(code, encoded, found.codes, found.commitment_loss, found.perplexity, roll)
