"""The flow proper: steps, levels and the multi-scale whole."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from timbreflow.models.glow.actnorm import ActNorm
from timbreflow.models.glow.context import FlowContext
from timbreflow.models.glow.coupling import AffineCoupling, CouplingConfig
from timbreflow.models.glow.invertible_conv import InvertibleConv
from timbreflow.models.glow.squeeze import Split, Squeeze


class FlowStep(nn.Module):
    """Actnorm, invertible 1x1 convolution, affine coupling."""

    def __init__(self, channels: int, config: CouplingConfig) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels)
        self.mix = InvertibleConv(channels)
        self.coupling = AffineCoupling(channels, config)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: FlowContext) -> Tensor:
        """Data-dependent start of the actnorm; returns this step's output, [B, C, t]."""
        x = self.actnorm.initialize(x, context)
        x, _ = self.mix(x, context)
        return self.coupling(x, context)[0]

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """[B, C, t] -> z [B, C, t], log_det [B]."""
        x, first = self.actnorm(x, context)
        x, second = self.mix(x, context)
        x, third = self.coupling(x, context)
        return x, first + second + third

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """[B, C, t] -> x."""
        return self.actnorm.inverse(self.mix.inverse(self.coupling.inverse(z, context), context), context)


class Flow(nn.Module):
    """L levels of [squeeze, K steps, split]; the last level has no split.

    z is a list with one tensor a level. With M bins and T frames, level i = 1..L works on [B, 2 M, T / 2**i] and
    leaves [B, M, T / 2**i] behind, the last one all of its 2 M channels.
    """

    def __init__(self, n_features: int, coupling: CouplingConfig, *, n_levels: int, n_steps: int) -> None:
        super().__init__()
        self.squeeze = Squeeze()
        self.split = Split()
        self.levels = nn.ModuleList(
            nn.ModuleList(FlowStep(2 * n_features, coupling) for _ in range(n_steps)) for _ in range(n_levels)
        )

    @property
    def multiple(self) -> int:
        """T must be a multiple of this."""
        return 2 ** len(self.levels)

    @torch.no_grad()
    def initialize(self, x: Tensor, contexts: Sequence[FlowContext]) -> None:
        """Data-dependent start of every actnorm, in the order of the flow; x: [B, M, T] one real batch."""
        for i, (steps, context) in enumerate(zip(self._steps(), contexts, strict=True)):
            x = self.squeeze(x)
            for step in steps:
                x = step.initialize(x, context)
            if i < len(self.levels) - 1:
                x, _ = self.split(x)

    def forward(self, x: Tensor, contexts: Sequence[FlowContext]) -> tuple[list[Tensor], Tensor]:
        """[B, M, T] -> z (one a level), log_det [B]."""
        log_det = x.new_zeros(x.shape[0])
        latents = []
        for i, (steps, context) in enumerate(zip(self._steps(), contexts, strict=True)):
            x = self.squeeze(x)
            for step in steps:
                x, change = step(x, context)
                log_det = log_det + change
            if i < len(self.levels) - 1:
                x, done = self.split(x)
                latents.append(done)
        return [*latents, x], log_det

    def inverse(self, z: Sequence[Tensor], contexts: Sequence[FlowContext]) -> Tensor:
        """Z (one a level) -> [B, M, T]."""
        x = z[-1]
        for i, (steps, context) in reversed(list(enumerate(zip(self._steps(), contexts, strict=True)))):
            if i < len(self.levels) - 1:
                x = self.split.inverse(x, z[i])
            for step in reversed(steps):
                x = step.inverse(x, context)
            x = self.squeeze.inverse(x)
        return x

    def _steps(self) -> list[list[FlowStep]]:
        return [list(cast(nn.ModuleList, steps)) for steps in self.levels]  # type: ignore[arg-type]
