"""The invertible layers of the flow.

Conventions: x and z are [B, C, t]. `forward(x, context) -> (z, log_det)`, with log_det [B] the log-determinant of
dz/dx in nats; `inverse(z, context) -> x`. Layers never change the context, and `forward` never changes a parameter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from timbreflow.models.blocks import full_precision
from timbreflow.parallel import gather

_MIN_STD = 1e-3


@dataclass(frozen=True)
class FlowContext:
    """What conditions all layers of one level.

    Attributes:
        features: [B, C, t] content and style for each frame of the level.
        style: [B, S] the style as one vector, for the style normalisation.
    """

    features: Tensor
    style: Tensor


class InvertibleLayer(nn.Module):
    """A bijection of [B, C, t] under a context; see the module for the conventions."""

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """X -> z, log_det [B]."""
        raise NotImplementedError

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """Z -> x."""
        raise NotImplementedError

    @torch.no_grad()
    def initialize(self, x: Tensor, context: FlowContext) -> Tensor:
        """Set what starts from data by one real batch x, and return z; most layers have nothing to set."""
        return cast(Tensor, self(x, context)[0])


class InvertibleSequence(InvertibleLayer):
    """Layers one after the other, by name; itself a layer."""

    def __init__(self, **layers: InvertibleLayer) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def __iter__(self) -> Iterator[InvertibleLayer]:
        """The layers, first to last."""
        return cast(Iterator[InvertibleLayer], self.children())

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """X -> z, the sum of the layers' log_det."""
        total = x.new_zeros(len(x))
        for layer in self:
            x, log_det = layer(x, context)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """Z -> x."""
        for layer in reversed(list(self)):
            z = layer.inverse(z, context)
        return z

    @torch.no_grad()
    def initialize(self, x: Tensor, context: FlowContext) -> Tensor:
        """Initialise each layer by the output of those before it."""
        for layer in self:
            x = layer.initialize(x, context)
        return x


class Squeeze(InvertibleLayer):
    """Two neighbouring frames become one with twice the channels, those of the earlier frame first; log_det = 0."""

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """[B, C, t], t even -> z [B, 2 C, t / 2], zeros [B]."""
        batch, channels, frames = x.shape
        pairs = x.view(batch, channels, frames // 2, 2).permute(0, 3, 1, 2)
        return pairs.reshape(batch, 2 * channels, frames // 2), x.new_zeros(batch)

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """[B, 2 C, t / 2] -> x [B, C, t]."""
        batch, channels, frames = z.shape
        return z.view(batch, 2, channels // 2, frames).permute(0, 2, 3, 1).reshape(batch, channels // 2, 2 * frames)


class ActNorm(InvertibleLayer):
    """Activation normalisation: z = (x + shift) exp(log_scale), each channel by itself.

    Kingma and Dhariwal 2018, *Glow*, section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """X -> z, log_det = t x sum(log_scale)."""
        z = (x + self.shift) * self.log_scale.exp()
        return z, (self.log_scale.sum() * x.shape[-1]).expand(len(x))

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """Z -> x."""
        return z * (-self.log_scale).exp() - self.shift

    @torch.no_grad()
    def initialize(self, x: Tensor, context: FlowContext) -> Tensor:
        """Set shift and scale so that each channel of z has mean 0 and deviation 1."""
        batch = gather(x)
        mean = batch.mean((0, 2), keepdim=True)
        std = batch.std((0, 2), correction=0, keepdim=True)
        self.shift.copy_(-mean)
        self.log_scale.copy_(-std.clamp_min(_MIN_STD).log())
        return super().initialize(x, context)


class InvertibleConv(InvertibleLayer):
    """Invertible 1x1 convolution, a learned mixing of the channels: z = P L (U + diag(sign exp(log_diagonal))) x.

    P is a fixed permutation, L unit lower and U strictly upper triangular (one matrix holds both), so that the
    determinant is a sum and the inverse two triangular solutions. Autocast is off inside. Starts as a random rotation.
    Kingma and Dhariwal 2018, *Glow*, section 3.2.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The decomposition needs numbers, also when the model is built on the meta device to count parameters.
        with torch.device("cpu"):
            rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
            p, lower, upper = torch.linalg.lu(rotation)
            diagonal = upper.diagonal()
            triangles = (lower.tril(-1) + upper.triu(1)).float()
            log_diagonal, sign = diagonal.abs().log().float(), diagonal.sign().float()
            permutation = p.argmax(1)
        device = torch.empty(0).device
        self.triangles = nn.Parameter(triangles.to(device))
        self.log_diagonal = nn.Parameter(log_diagonal.to(device))
        self.register_buffer("sign", sign.to(device))
        self.register_buffer("permutation", permutation.to(device))

    def _factors(self) -> tuple[Tensor, Tensor]:
        lower = self.triangles.tril(-1) + torch.eye(len(self.triangles), dtype=self.sign.dtype, device=self.sign.device)
        upper = self.triangles.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        return lower, upper

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """X -> z, log_det = t x sum(log_diagonal)."""
        with torch.autocast(x.device.type, enabled=False):
            lower, upper = self._factors()
            z = (lower @ upper)[self.permutation] @ x
        return z, (self.log_diagonal.sum() * x.shape[-1]).expand(len(x))

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """Z -> x."""
        batch, channels, frames = z.shape
        with torch.autocast(z.device.type, enabled=False):
            lower, upper = self._factors()
            flat = z.transpose(0, 1).reshape(channels, -1)[self.permutation.argsort()]
            flat = torch.linalg.solve_triangular(lower, flat, upper=False, unitriangular=True)
            flat = torch.linalg.solve_triangular(upper, flat, upper=True)
        return flat.view(channels, batch, frames).transpose(0, 1)


class StyleNorm(InvertibleLayer):
    """Style normalisation: z = (x - mean) exp(-log_std), mean and bounded log_std of each channel from the style.

    Starts as the identity. Lets a flow follow styles that it was never trained on: SNAC, Choi et al. 2022
    (arXiv 2211.16866).
    """

    def __init__(self, channels: int, style_dim: int, *, max_log_scale: float) -> None:
        super().__init__()
        self.max_log_scale = max_log_scale
        self.linear = nn.Linear(style_dim, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def statistics(self, context: FlowContext) -> tuple[Tensor, Tensor]:
        """Mean and log_std of the style, [B, C, 1] each."""
        with torch.autocast(context.style.device.type, enabled=False):
            mean, raw = self.linear(full_precision(context.style))[:, :, None].chunk(2, dim=1)
        return mean, soft_clamp(raw, self.max_log_scale)

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """X -> z, log_det = -t x sum(log_std)."""
        mean, log_std = self.statistics(context)
        return (x - mean) * (-log_std).exp(), -log_std.sum((1, 2)) * x.shape[-1]

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """Z -> x."""
        mean, log_std = self.statistics(context)
        return z * log_std.exp() + mean


class GatedNetwork(nn.Module):
    """Stack of gated tanh units: h <- h + tanh(conv(h)) * sigmoid(gate(context)).

    The tanh branch sees the half of the signal that passes through, the sigmoid branch content and style. The last 1x1
    convolution starts at zero, so that a new coupling is the identity. The only part of the flow that may run in
    reduced precision. van den Oord et al. 2016, *Conditional Image Generation with PixelCNN Decoders*, for the unit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        context_channels: int,
        hidden_channels: int,
        n_layers: int,
        kernel: int,
    ) -> None:
        super().__init__()
        hidden = hidden_channels
        self.in_proj = nn.Conv1d(in_channels, hidden, 1)
        self.inject = nn.Conv1d(context_channels, hidden, 1)
        # One convolution makes the gates of all layers: the context is the same for each.
        self.gates = nn.Conv1d(context_channels, hidden * n_layers, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(hidden, hidden, kernel, padding=2**i * (kernel // 2), dilation=2**i) for i in range(n_layers)
        )
        self.out_proj = nn.Conv1d(hidden, out_channels, 1)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """[B, in_channels, t], [B, C, t] -> [B, out_channels, t]."""
        gates = self.gates(features).sigmoid().chunk(len(self.layers), dim=1)
        h = self.in_proj(x) + self.inject(features)
        for layer, gate in zip(self.layers, gates, strict=True):
            h = h + layer(h).tanh() * gate
        return self.out_proj(h)


class AffineCoupling(InvertibleLayer):
    """Half of the channels passes; it and the context decide how the other half is scaled and shifted.

    z_b = n(x_b) exp(s) + t with (s, t) = network(n(x_a), context), n the optional style normalisation and
    |s| <= max_log_scale: a rendered sound is nearly a function of its conditions, and with unbounded scales its
    likelihood would be unbounded too. Dinh et al. 2017, *Real NVP*.

    Args:
        channels: of x; half of them, rounded down, pass.
        max_log_scale: above 0.
        style_norm: of all channels, or None.
        **network: keyword arguments of `GatedNetwork`.
    """

    def __init__(self, channels: int, *, max_log_scale: float, style_norm: StyleNorm | None, **network: int) -> None:
        super().__init__()
        self.n_passing = channels // 2
        self.max_log_scale = max_log_scale
        self.style_norm = style_norm
        self.network = GatedNetwork(self.n_passing, 2 * (channels - self.n_passing), **network)

    def _map(self, passing: Tensor, context: FlowContext) -> tuple[Tensor, Tensor | float, Tensor]:
        """The map of the other half, z = (x - mean) exp(log_scale) + shift: log_scale, mean, shift.

        The style normalisation is folded into it: one exponential of the sum of scales.
        """
        if self.style_norm is None:
            log_scale, shift = self._scale_shift(passing, context)
            return log_scale, 0.0, shift
        mean, log_std = self.style_norm.statistics(context)
        mean_a, mean_b = mean.tensor_split([self.n_passing], dim=1)
        log_std_a, log_std_b = log_std.tensor_split([self.n_passing], dim=1)
        log_scale, shift = self._scale_shift((passing - mean_a) * (-log_std_a).exp(), context)
        return log_scale - log_std_b, mean_b, shift

    def _scale_shift(self, passing: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        log_scale, shift = full_precision(self.network(passing, context.features)).chunk(2, dim=1)
        return soft_clamp(log_scale, self.max_log_scale), shift

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """X -> z, log_det = sum of the log-scales."""
        passing, other = x.tensor_split([self.n_passing], dim=1)
        log_scale, mean, shift = self._map(passing, context)
        return torch.cat([passing, (other - mean) * log_scale.exp() + shift], dim=1), log_scale.sum((1, 2))

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """Z -> x."""
        passing, other = z.tensor_split([self.n_passing], dim=1)
        log_scale, mean, shift = self._map(passing, context)
        return torch.cat([passing, (other - shift) * (-log_scale).exp() + mean], dim=1)


def soft_clamp(x: Tensor, limit: float) -> Tensor:
    """X bounded to (-limit, limit), with slope 1 at 0."""
    return limit * torch.tanh(x / limit)
