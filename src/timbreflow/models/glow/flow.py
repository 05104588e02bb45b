"""The multi-scale flow: levels of invertible layers, and the Gaussian that its latents are compared with."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Generator, Tensor, nn

from timbreflow.models.base import Noise
from timbreflow.models.glow.layers import FlowContext, InvertibleLayer, InvertibleSequence, Squeeze


class Flow(nn.Module):
    """L levels of [squeeze, K steps, split]; the last level has no split.

    z is a list with one tensor a level. With M bins and T frames, level i = 1..L works on [B, 2 M, T / 2**i] and
    leaves [B, M, T / 2**i] behind, the last one all of its 2 M channels.

    Args:
        n_features: bins M.
        make_step: builds one step of so many channels.
        n_levels: L.
        n_steps: K.
    """

    def __init__(
        self, n_features: int, make_step: Callable[[int], InvertibleLayer], *, n_levels: int, n_steps: int
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            InvertibleSequence(squeeze=Squeeze(), **{str(i): make_step(2 * n_features) for i in range(n_steps)})
            for _ in range(n_levels)
        )

    @property
    def multiple(self) -> int:
        """T must be a multiple of this."""
        return 2 ** len(self.levels)

    @torch.no_grad()
    def initialize(self, x: Tensor, contexts: Sequence[FlowContext]) -> None:
        """Data-dependent start of every layer, in the order of the flow; x: [B, M, T] one real batch."""
        for level, context in self._with(contexts):
            x = level.initialize(x, context).chunk(2, dim=1)[0]

    def forward(self, x: Tensor, contexts: Sequence[FlowContext]) -> tuple[list[Tensor], Tensor]:
        """[B, M, T] -> z (one a level), log_det [B]."""
        total = x.new_zeros(len(x))
        latents: list[Tensor] = []
        for level, context in self._with(contexts):
            if latents:
                x, latents[-1] = latents[-1].chunk(2, dim=1)
            for layer in level:  # one running sum over all levels, as released likelihoods were computed
                x, log_det = layer(x, context)
                total = total + log_det
            latents.append(x)
        return latents, total

    def inverse(self, z: Sequence[Tensor], contexts: Sequence[FlowContext]) -> Tensor:
        """Z (one a level) -> [B, M, T]."""
        x = z[-1][:, :0]  # no channels go on to the last level
        for (level, context), latent in zip(reversed(self._with(contexts)), reversed(z), strict=True):
            x = level.inverse(torch.cat([x, latent], dim=1), context)
        return x

    def _with(self, contexts: Iterable[FlowContext]) -> list[tuple[InvertibleSequence, FlowContext]]:
        return list(zip(self.levels, contexts, strict=True))  # type: ignore[arg-type]


def gaussian_log_prob(z: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Log-density of z, [B, C, t], under N(mean, exp(log_sigma)), summed over channels and frames: [B], in nats."""
    density = -0.5 * (math.log(2 * math.pi) + ((z - mean) * (-log_sigma).exp()) ** 2) - log_sigma
    return density.sum((1, 2))


def sample_gaussians(
    means: Sequence[Tensor], log_sigmas: Sequence[Tensor], temperature: float, noise: Noise
) -> list[Tensor]:
    """Mean + temperature x sigma x noise for each level; a temperature of 0 is the mean itself and draws nothing.

    Args:
        means: [B, C, t] each.
        log_sigmas: of the same shapes.
        temperature: 0 or more.
        noise: one source for all, or one for each clip, which then gets the same noise alone and in any batch.
    """
    if temperature == 0:
        return list(means)
    if noise is None or isinstance(noise, Generator):
        drawn = [_draw(mean, noise) for mean in means]
    else:
        clips = [[_draw(mean[i : i + 1], source) for mean in means] for i, source in enumerate(noise)]
        drawn = [torch.cat(level) for level in zip(*clips, strict=True)]
    return [
        mean + temperature * log_sigma.exp() * x for mean, log_sigma, x in zip(means, log_sigmas, drawn, strict=True)
    ]


def _draw(like: Tensor, source: Generator | None) -> Tensor:
    device = like.device if source is None else source.device
    return torch.randn(like.shape, generator=source, device=device, dtype=like.dtype).to(like.device)
