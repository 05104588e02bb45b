"""Content: encoder, quantiser, and the piano-roll head that keeps the notes in the code."""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import ResidualBlock, full_precision, pad_frames
from timbreflow.models.quantizer import Quantizer, QuantizerConfig, build_quantizer
from timbreflow.parallel import gather, own

N_PITCHES = 128
_INITIAL_LOGIT = -3.5
"""About the log-odds of a pitch sounding in a frame, so that the head need not spend its first steps on silence."""


@dataclass(frozen=True)
class ContentConfig:
    """Shape of the content encoder and of its piano-roll head.

    Attributes:
        encoder: "residual" (convolution at full rate, stride-2 steps, residual blocks) or "strided" (the 2021
            paper's plain stride-2 convolutions).
        width: channels.
        downsample: frames of the clip for one frame of the code: 1, 2 or 4.
        n_blocks: residual blocks after the last stride-2 step ("strided" ignores it).
        instance_norm: normalise each channel over time by itself, which removes much of the timbre, and with it
            any note that sounds through the whole clip.
        pianoroll_head_width: channels inside the head that predicts the piano roll from the code; 0 for no head.
        pianoroll_channels: channels of the predicted piano roll that decoders get beside the code; 0 for the code
            alone.
    """

    encoder: Literal["residual", "strided"]
    width: int
    downsample: int
    n_blocks: int
    instance_norm: bool
    pianoroll_head_width: int
    pianoroll_channels: int

    def __post_init__(self) -> None:
        """Refuse rates that the decoders cannot undo, and piano-roll channels without a head."""
        if self.pianoroll_channels and not self.pianoroll_head_width:
            raise TimbreflowError("content.pianoroll_channels needs a head; set content.pianoroll_head_width above 0.")
        if self.downsample not in (1, 2, 4):
            raise TimbreflowError(f"content.downsample is {self.downsample}; use 1, 2 or 4.")
        if self.encoder == "strided" and self.downsample == 1:
            raise TimbreflowError("content.downsample is 1; with content.encoder strided use 2 or 4.")

    @property
    def n_strides(self) -> int:
        """Number of stride-2 steps."""
        return self.downsample.bit_length() - 1


@dataclass(frozen=True)
class ContentCode:
    """A clip's content.

    Attributes:
        code: [B, D + H, t] input of the decoders, t = ceil(T / downsample): the quantised code with a straight-through
            gradient, and H channels of the predicted piano roll.
        encoded: [B, D, t] before quantisation, each channel of deviation 1 over a batch.
        codes: [B, t] int64.
        commitment_loss: scalar.
        perplexity: scalar.
        pianoroll_logits: [B, 128, T] log-odds of each MIDI pitch sounding in each frame; None without a head.
    """

    code: Tensor
    encoded: Tensor
    codes: Tensor
    commitment_loss: Tensor
    perplexity: Tensor
    pianoroll_logits: Tensor | None


class ResidualContentEncoder(nn.Module):
    """Convolution at full rate, stride-2 convolutions, residual blocks, projection to the code.

    Each channel of the code is normalised over the batch. Without it the code is a constant and a little change, few
    codes are used, and the decoders learn to do without the content (Lancucki et al. 2020, *Robust Training of Vector
    Quantized Bottleneck Models*).
    """

    def __init__(
        self, *, n_features: int, code_dim: int, width: int, n_strides: int, n_blocks: int, instance_norm: bool
    ) -> None:
        super().__init__()
        self.downsample = 2**n_strides
        self.in_proj = nn.Conv1d(n_features, width, 5, padding=2)
        self.strides = nn.ModuleList(nn.Conv1d(width, width, 4, stride=2, padding=1) for _ in range(n_strides))
        self.blocks = nn.ModuleList(
            ResidualBlock(width, dilation=2 ** (i % 3), instance_norm=instance_norm) for i in range(n_blocks)
        )
        self.out_proj = nn.Conv1d(width, code_dim, 1)
        self.norm = nn.BatchNorm1d(code_dim, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, T] -> [B, D, ceil(T / downsample)]."""
        h = self.in_proj(pad_frames(x, self.downsample, minimum=2 * self.downsample))
        for stride in self.strides:
            h = stride(F.gelu(h))
        for block in self.blocks:
            h = block(h)
        code = own(self.norm(gather(full_precision(self.out_proj(F.gelu(h))))))
        return code[..., : -(-x.shape[-1] // self.downsample)]


class StridedContentEncoder(nn.Module):
    """Stride-2 convolutions only, as in the 2021 paper; the last one gives the code."""

    def __init__(self, *, n_features: int, code_dim: int, width: int, n_strides: int) -> None:
        super().__init__()
        channels = [n_features, *[width] * (n_strides - 1), code_dim]
        self.strides = nn.ModuleList(nn.Conv1d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, T] -> [B, D, ceil(T / downsample)]."""
        h = pad_frames(x, 2 ** len(self.strides))
        for i, stride in enumerate(self.strides):
            h = stride(F.leaky_relu(h, 0.2) if i else h)
        return h


class PianorollHead(nn.Module):
    """Piano roll from the quantised code alone, so that its loss forces the notes through the bottleneck."""

    def __init__(self, *, code_dim: int, width: int, n_strides: int) -> None:
        super().__init__()
        self.in_proj = nn.Conv1d(code_dim, width, 3, padding=1)
        self.block = ResidualBlock(width)
        self.ups = nn.ModuleList(nn.ConvTranspose1d(width, width, 4, stride=2, padding=1) for _ in range(n_strides))
        self.out_proj = nn.Conv1d(width, N_PITCHES, 1)
        nn.init.constant_(self.out_proj.bias, _INITIAL_LOGIT)  # type: ignore[arg-type]

    def forward(self, code: Tensor, frames: int) -> Tensor:
        """[B, D, t] -> [B, 128, frames] logits."""
        h = self.block(self.in_proj(pad_frames(code, 1, minimum=2)))
        for up in self.ups:
            h = up(F.gelu(h))
        return self.out_proj(F.gelu(h))[..., :frames]


class PianorollEncoder(nn.Module):
    """The predicted piano roll as channels at the rate of the code, from which a decoder reads the notes directly."""

    def __init__(self, channels: int, *, downsample: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(N_PITCHES, channels, downsample, stride=downsample)
        self.downsample = downsample

    def forward(self, logits: Tensor) -> Tensor:
        """[B, 128, T] -> [B, channels, ceil(T / downsample)]."""
        return self.conv(pad_frames(logits, self.downsample).sigmoid())


class ContentPath(nn.Module):
    """Content clip -> quantised code that holds notes, timing and dynamics, and little timbre.

    Args:
        encoder: [B, M, T] -> [B, D, t].
        quantizer: of D channels.
        pianoroll_head: None for no prediction of the notes.
        pianoroll_encoder: None where decoders get the code alone; needs the head.

    Attributes:
        code_dim: D + H, channels of `ContentCode.code`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: Quantizer,
        pianoroll_head: PianorollHead | None = None,
        pianoroll_encoder: PianorollEncoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self.pianoroll_head = pianoroll_head
        self.pianoroll_encoder = pianoroll_encoder
        self.code_dim = quantizer.code_dim + (0 if pianoroll_encoder is None else pianoroll_encoder.conv.out_channels)

    def forward(self, x: Tensor) -> ContentCode:
        """Encode x: [B, M, T]."""
        encoded = self.encoder(x)
        found = self.quantizer(encoded)
        code, logits = found.quantized, None
        if self.pianoroll_head is not None:
            logits = self.pianoroll_head(found.quantized, x.shape[-1])
            if self.pianoroll_encoder is not None:
                code = torch.cat([code, self.pianoroll_encoder(logits)], dim=1)
            logits = full_precision(logits)
        return ContentCode(code, encoded, found.codes, found.commitment_loss, found.perplexity, logits)

    def pianoroll(self, x: Tensor) -> Tensor:
        """Probabilities of each pitch sounding, by the head: [B, M, T] -> [B, 128, T] float32.

        Raises:
            TimbreflowError: there is no head.
        """
        logits: Tensor | None = self(x).pianoroll_logits
        if logits is None:
            raise TimbreflowError("The model has no piano-roll head; train one with content.pianoroll_head_width.")
        return logits.sigmoid()


def build_content_encoder(config: ContentConfig, *, n_features: int, code_dim: int) -> nn.Module:
    """The content encoder that the configuration names: [B, M, T] -> [B, D, t]."""
    if config.encoder == "strided":
        return StridedContentEncoder(
            n_features=n_features, code_dim=code_dim, width=config.width, n_strides=config.n_strides
        )
    return ResidualContentEncoder(
        n_features=n_features,
        code_dim=code_dim,
        width=config.width,
        n_strides=config.n_strides,
        n_blocks=config.n_blocks,
        instance_norm=config.instance_norm,
    )


def build_content_path(content: ContentConfig, quantizer: QuantizerConfig, *, n_features: int) -> ContentPath:
    """The content path of a model of M = n_features."""
    code_dim, width, channels = quantizer.code_dim, content.pianoroll_head_width, content.pianoroll_channels
    return ContentPath(
        build_content_encoder(content, n_features=n_features, code_dim=code_dim),
        build_quantizer(quantizer),
        PianorollHead(code_dim=code_dim, width=width, n_strides=content.n_strides) if width else None,
        PianorollEncoder(channels, downsample=content.downsample) if channels else None,
    )
