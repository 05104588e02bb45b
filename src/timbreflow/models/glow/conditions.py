"""Content code and style tokens -> the conditions of every level of the flow and of its priors."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.blocks import ResidualBlock, StyleAttention, change_rate, pad_frames
from timbreflow.models.glow.context import FlowContext, coarser
from timbreflow.models.glow.prior import ConditionalPrior


@dataclass(frozen=True)
class Conditions:
    """Everything that the flow needs to know about one batch.

    Attributes:
        contexts: one a level, the finest first.
        means: one a level, mean of the prior.
        log_sigmas: one a level, log-deviation of the prior.
        frames: T before padding.
        prediction: [B, M, T] what is taken from the features before the flow; None where there is no decoder.
    """

    contexts: list[FlowContext]
    means: list[Tensor]
    log_sigmas: list[Tensor]
    frames: int
    prediction: Tensor | None = None


class ConditionNetwork(nn.Module):
    """Residual convolutions over the code; each frame then asks the style tokens; coarser levels by stride 2.

    Where there is a prediction of the features, the flow's layers see it too; the priors do not, as it has the timbre.
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
        bound: float,
        sees_prediction: bool,
    ) -> None:
        super().__init__()
        self.n_levels = n_levels
        self.downsample = downsample
        self.inlet = nn.Conv1d(code_dim, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width, dilation=2 ** (i % 3)) for i in range(n_blocks))
        self.strides = nn.ModuleList(nn.Conv1d(width, width, 4, stride=2, padding=1) for _ in range(n_levels - 1))
        self.attentions = nn.ModuleList(StyleAttention(width, token_dim) for _ in range(n_levels))
        self.style = nn.Sequential(nn.Flatten(), nn.Linear(n_tokens * token_dim, width), nn.GELU())
        self.style_to_frames = nn.Linear(width, width)
        self.prediction = nn.ModuleList(
            nn.Conv1d(n_features, width, 4, stride=2, padding=1) for _ in range(n_levels if sees_prediction else 0)
        )
        self.priors = nn.ModuleList(
            ConditionalPrior(n_features if level < n_levels - 1 else 2 * n_features, width, bound=bound)
            for level in range(n_levels)
        )

    def forward(
        self, code: Tensor, tokens: Tensor, *, frames: int, mask: Tensor | None, prediction: Tensor | None
    ) -> Conditions:
        """Make the conditions.

        Args:
            code: [B, D, ceil(T / downsample)] content code.
            tokens: [B, K, D'] style tokens.
            frames: T of the features.
            mask: [B, 1, P] 1 where a frame counts, P = T padded to a multiple of 2 ** n_levels; None counts all P.
            prediction: [B, M, T] of the features; None where the network was built without.
        """
        padded = -(-frames // 2**self.n_levels) * 2**self.n_levels
        style = self.style(tokens)
        # The strides need two frames, which the shortest clips do not have at the coarsest level: crop afterwards.
        code = pad_frames(change_rate(code, self.downsample, 2), 1, minimum=max(padded // 2, 2**self.n_levels))
        content = self.inlet(code[..., : max(padded // 2, 2**self.n_levels)])
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
            features = F.gelu(features)
            mean, log_sigma = self.priors[level](F.gelu(content[..., :length]))
            mask = None if mask is None else coarser(mask)
            contexts.append(FlowContext(features, style, mask))
            means.append(mean)
            log_sigmas.append(log_sigma)
        return Conditions(contexts, means, log_sigmas, frames, prediction)
