"""Affine coupling whose network is gated by content and style."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timbreflow.models.blocks import full_precision
from timbreflow.models.glow.context import FlowContext, masked


@dataclass(frozen=True)
class CouplingConfig:
    """Shape of a coupling; see GlowConfig for the attributes that are not here.

    Attributes:
        context_channels: C of `FlowContext.features`.
        style_dim: S of `FlowContext.style`.
    """

    context_channels: int
    style_dim: int
    hidden: int
    n_layers: int
    kernel: int
    bound: float
    style_norm: bool


class GatedNetwork(nn.Module):
    """Stack of gated tanh units: h <- h + tanh(conv(h)) * sigmoid(gate(context)).

    As in the proposal, the tanh branch sees the half of the signal that passes through and the sigmoid branch sees
    content and style. The last 1x1 convolution starts at zero, so that a new coupling is the identity.
    The only part of the flow that may run in reduced precision.
    van den Oord et al. 2016, *Conditional Image Generation with PixelCNN Decoders*, for the unit.
    """

    def __init__(self, inputs: int, outputs: int, config: CouplingConfig) -> None:
        super().__init__()
        hidden, n_layers, kernel = config.hidden, config.n_layers, config.kernel
        self.inlet = nn.Conv1d(inputs, hidden, 1)
        self.inject = nn.Conv1d(config.context_channels, hidden, 1)
        # One convolution makes the gates of all layers: the context is the same for each.
        self.gates = nn.Conv1d(config.context_channels, hidden * n_layers, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(hidden, hidden, kernel, padding=2**i * (kernel // 2), dilation=2**i) for i in range(n_layers)
        )
        self.outlet = nn.Conv1d(hidden, outputs, 1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """[B, inputs, t], [B, C, t] -> [B, outputs, t]."""
        gates = self.gates(features).sigmoid().chunk(len(self.layers), dim=1)
        h = self.inlet(x) + self.inject(features)
        for layer, gate in zip(self.layers, gates, strict=True):
            h = h + layer(h).tanh() * gate
        return self.outlet(h)


class StyleNorm(nn.Module):
    """(x - m(style)) exp(-v(style)) for each channel: speaker-normalised coupling.

    The published way for a flow to follow styles that it never saw: SNAC, Choi et al. 2022 (arXiv 2211.16866).
    v is bounded, and both maps start at zero.
    """

    def __init__(self, channels: int, style_dim: int, *, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.linear = nn.Linear(style_dim, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def parameters_of(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S] -> m, v, each [B, channels, 1]."""
        with torch.autocast(style.device.type, enabled=False):
            m, v = self.linear(full_precision(style))[:, :, None].chunk(2, dim=1)
        return m, self.bound * torch.tanh(v / self.bound)


class AffineCoupling(nn.Module):
    """One half of the channels passes; it and the context decide how the other half is scaled and shifted.

    z_b = n(x_b) exp(s) + t with (s, t) = network(n(x_a), context), n the optional style normalisation, |s| <= bound.
    The scales are bounded because a rendered sound is nearly a function of its conditions, and a likelihood that can
    grow without bound does. Dinh et al. 2017, *Real NVP*.
    """

    def __init__(self, channels: int, config: CouplingConfig) -> None:
        super().__init__()
        self.n_passing = channels // 2
        self.bound = config.bound
        self.style_norm = StyleNorm(channels, config.style_dim, bound=config.bound) if config.style_norm else None
        self.network = GatedNetwork(self.n_passing, 2 * (channels - self.n_passing), config)

    def _style(self, context: FlowContext) -> tuple[Tensor | float, Tensor | float, Tensor | float, Tensor | float]:
        """M and v of the passing half, m and v of the other."""
        if self.style_norm is None:
            return 0.0, 0.0, 0.0, 0.0
        m, v = self.style_norm.parameters_of(context.style)
        return m[:, : self.n_passing], v[:, : self.n_passing], m[:, self.n_passing :], v[:, self.n_passing :]

    def _scale_shift(
        self, passing: Tensor, m: Tensor | float, v: Tensor | float, context: FlowContext
    ) -> tuple[Tensor, Tensor]:
        # Frames that do not count are hidden, so the frames that do form a density of their own.
        normalised = (passing - m) * torch.exp(-v) if isinstance(v, Tensor) else passing
        raw = full_precision(self.network(masked(normalised, context), context.features))
        log_scale, shift = raw.chunk(2, dim=1)
        return self.bound * torch.tanh(log_scale / self.bound), shift

    def forward(self, x: Tensor, context: FlowContext) -> tuple[Tensor, Tensor]:
        """[B, C, t] -> z [B, C, t], log_det [B]."""
        passing, other = x.tensor_split([self.n_passing], dim=1)
        m_a, v_a, m_b, v_b = self._style(context)
        log_scale, shift = self._scale_shift(passing, m_a, v_a, context)
        log_scale = log_scale - v_b
        z = (other - m_b) * log_scale.exp() + shift
        return torch.cat([passing, z], dim=1), masked(log_scale, context).sum((1, 2))

    def inverse(self, z: Tensor, context: FlowContext) -> Tensor:
        """[B, C, t] -> x."""
        passing, other = z.tensor_split([self.n_passing], dim=1)
        m_a, v_a, m_b, v_b = self._style(context)
        log_scale, shift = self._scale_shift(passing, m_a, v_a, context)
        x = (other - shift) * (v_b - log_scale).exp() + m_b
        return torch.cat([passing, x], dim=1)
