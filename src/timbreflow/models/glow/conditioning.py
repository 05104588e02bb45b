"""Content code and style tokens -> the contexts of the flow's levels and the priors of its latents."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.blocks import ResidualBlock, StyleAttention, change_rate, full_precision, pad_frames
from timbreflow.models.glow.layers import FlowContext, soft_clamp


@dataclass(frozen=True)
class Conditions:
    """All that the flow is conditioned on for one batch; one entry a level, the finest first.

    Attributes:
        contexts: of the layers.
        means: [B, C, t] each, mean of the prior.
        log_sigmas: [B, C, t] each, log-deviation of the prior.
        frames: T before padding.
        prediction: [B, M, T] subtracted from the features before the flow; None where there is no decoder.
    """

    contexts: list[FlowContext]
    means: list[Tensor]
    log_sigmas: list[Tensor]
    frames: int
    prediction: Tensor | None = None

    def first(self, frames: int) -> "Conditions":
        """Those of the first frames, a multiple of the flow's."""

        def cut(levels: list[Tensor]) -> list[Tensor]:
            return [values[..., : frames >> (level + 1)] for level, values in enumerate(levels)]

        features = cut([context.features for context in self.contexts])
        return Conditions(
            [FlowContext(own, context.style) for own, context in zip(features, self.contexts, strict=True)],
            cut(self.means),
            cut(self.log_sigmas),
            frames,
            None if self.prediction is None else self.prediction[..., :frames],
        )


class ConditionalPrior(nn.Module):
    """N(mean(c), sigma(c)) for each channel and frame of one level, c from the content only.

    The mean carries the notes; the style may enter z only through the layers. Starts as the standard normal.
    Kim et al. 2020, *Glow-TTS*, for the idea.
    """

    def __init__(self, channels: int, context_channels: int, *, max_log_scale: float) -> None:
        super().__init__()
        self.max_log_scale = max_log_scale
        self.hidden = nn.Conv1d(context_channels, context_channels, 3, padding=1)
        self.out_proj = nn.Conv1d(context_channels, 2 * channels, 1)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)  # type: ignore[arg-type]

    def forward(self, content: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, t] -> mean, log_sigma, each [B, channels, t] in float32."""
        mean, raw = full_precision(self.out_proj(F.gelu(self.hidden(content)))).chunk(2, dim=1)
        return mean, soft_clamp(raw, self.max_log_scale)


class ConditionNetwork(nn.Module):
    """Residual convolutions over the code; each frame attends to the style tokens; coarser levels by stride 2.

    A prediction of the features conditions the layers too, not the priors, because it carries the timbre.
    """

    def __init__(
        self,
        *,
        n_features: int,
        code_dim: int,
        n_tokens: int,
        token_dim: int,
        width: int,
        n_blocks: int,
        n_levels: int,
        downsample: int,
        max_log_scale: float,
        sees_prediction: bool,
    ) -> None:
        super().__init__()
        self.n_levels = n_levels
        self.downsample = downsample
        self.in_proj = nn.Conv1d(code_dim, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width, dilation=2 ** (i % 3)) for i in range(n_blocks))
        self.strides = nn.ModuleList(nn.Conv1d(width, width, 4, stride=2, padding=1) for _ in range(n_levels - 1))
        self.attentions = nn.ModuleList(StyleAttention(width, token_dim) for _ in range(n_levels))
        self.style = nn.Sequential(nn.Flatten(), nn.Linear(n_tokens * token_dim, width), nn.GELU())
        self.style_to_frames = nn.Linear(width, width)
        self.prediction = nn.ModuleList(
            nn.Conv1d(n_features, width, 4, stride=2, padding=1) for _ in range(n_levels if sees_prediction else 0)
        )
        self.priors = nn.ModuleList(
            ConditionalPrior(n_features if level < n_levels - 1 else 2 * n_features, width, max_log_scale=max_log_scale)
            for level in range(n_levels)
        )

    def forward(self, code: Tensor, tokens: Tensor, *, frames: int, prediction: Tensor | None) -> Conditions:
        """Make the conditions.

        Args:
            code: [B, D, ceil(T / downsample)] content code.
            tokens: [B, K, D'] style tokens.
            frames: T of the features.
            prediction: [B, M, T] of the features; None where the network was built without.
        """
        padded = -(-frames // 2**self.n_levels) * 2**self.n_levels
        style = self.style(tokens)
        # The strides need two frames, which the shortest clips do not have at the coarsest level: crop afterwards.
        length = max(padded // 2, 2**self.n_levels)
        code = pad_frames(change_rate(code, self.downsample, 2), 1, minimum=length)
        content = self.in_proj(code[..., :length])
        for block in self.blocks:
            content = block(content)
        contexts, means, log_sigmas = [], [], []
        for level in range(self.n_levels):
            if level:
                content = self.strides[level - 1](F.gelu(content))
            length = padded // 2 ** (level + 1)
            features = content + self.attentions[level](content, tokens) + self.style_to_frames(style)[:, :, None]
            features = features[..., :length]
            if prediction is not None:
                seen = F.avg_pool1d(pad_frames(prediction, 2**self.n_levels), 2**level)
                features = features + self.prediction[level](seen)
            contexts.append(FlowContext(F.gelu(features), style))
            mean, log_sigma = self.priors[level](F.gelu(content[..., :length]))
            means.append(mean)
            log_sigmas.append(log_sigma)
        return Conditions(contexts, means, log_sigmas, frames, prediction)
