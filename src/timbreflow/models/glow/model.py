"""The conditioned Glow: content code and style tokens around the flow."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.base import Noise
from timbreflow.models.blocks import full_precision, pad_frames
from timbreflow.models.content import ContentCode, ContentConfig, build_content_path
from timbreflow.models.decoders import ConditionDropout, FilmDecoder
from timbreflow.models.glow.conditioning import ConditionNetwork, Conditions
from timbreflow.models.glow.flow import Flow, gaussian_log_prob, sample_gaussians
from timbreflow.models.glow.layers import (
    ActNorm,
    AffineCoupling,
    InvertibleConv,
    InvertibleLayer,
    InvertibleSequence,
    StyleNorm,
)
from timbreflow.models.quantizer import QuantizerConfig
from timbreflow.models.style import StyleConfig, build_style_encoder

MAX_FEATURE = 10.0
"""Outputs are clamped to this; normalised features of sound lie within some 5 deviations of 0."""
MAX_NAN_SHARE = 0.01
"""Share of a clip's values that may be NaN, from rare overflows, and are set to the mean, 0."""


@dataclass(frozen=True)
class GlowConfig:
    """Shape of a Glow.

    Attributes:
        n_features: bins of the features, M.
        content: content encoder and piano-roll head.
        quantizer: codebooks of the content code.
        style: style encoder.
        decoder_width: channels of a decoder like the VQ-VAE's, whose prediction is subtracted from x before the flow,
            which models the residual; 0 for none, where the flow models x itself.
        decoder_blocks: FiLM blocks of that decoder at the rate of the code.
        context_width: channels of the conditions.
        n_context_blocks: residual blocks between the code and the conditions.
        n_levels: levels of [squeeze, steps, split].
        n_steps: steps in each level.
        hidden_channels: of a coupling network.
        n_layers: gated tanh units in a coupling network.
        kernel: odd length of their convolutions, in frames of the level.
        max_log_scale: largest absolute log-scale of a coupling, of the style normalisation, and of the prior's sigma.
        style_norm: normalise by the style inside the couplings (SNAC).
        condition_dropout: probability that a clip's content code, or its style, is hidden in training.
    """

    n_features: int
    content: ContentConfig
    quantizer: QuantizerConfig
    style: StyleConfig
    decoder_width: int
    decoder_blocks: int
    context_width: int
    n_context_blocks: int
    n_levels: int
    n_steps: int
    hidden_channels: int
    n_layers: int
    kernel: int
    max_log_scale: float
    style_norm: bool
    condition_dropout: float

    def __post_init__(self) -> None:
        """Refuse kernels without a middle, empty flows, unbounded scales and decoders of negative size."""
        if self.decoder_width < 0 or self.decoder_blocks < 0:
            raise TimbreflowError("glow: decoder_width and decoder_blocks must be 0 or more.")
        if self.kernel % 2 == 0 or self.n_levels < 1 or self.n_steps < 1 or self.n_layers < 1:
            raise TimbreflowError("glow: kernel must be odd, and n_levels, n_steps and n_layers at least 1.")
        if self.max_log_scale <= 0:
            raise TimbreflowError(f"glow: max_log_scale is {self.max_log_scale}; it must be above 0.")


@dataclass(frozen=True)
class Likelihood:
    """Exact likelihood of x as given, noise and all: quote it with the deviation of that noise.

    Attributes:
        z: one latent a level, the finest first.
        log_det: [B] log-determinant of the flow, in nats.
        log_prior: [B] log-density of z under the content's prior, in nats.
        nll: [B] -log p(x | content, style) = -(log_prior + log_det), in nats.
        nll_per_dim: [B] nll over the number of values that it is of.
    """

    z: list[Tensor]
    log_det: Tensor
    log_prior: Tensor
    nll: Tensor
    nll_per_dim: Tensor

    @property
    def bits_per_dim(self) -> Tensor:
        """[B] nll_per_dim / ln 2."""
        return self.nll_per_dim / math.log(2)


@dataclass(frozen=True)
class GlowOutput:
    """Result of a forward pass.

    Attributes:
        likelihood: of x.
        content: code of the content clip.
        style_tokens: [B, K, D] float32.
        conditions: for `Glow.sample` under the same conditions, without encoding again.
    """

    likelihood: Likelihood
    content: ContentCode
    style_tokens: Tensor
    conditions: Conditions


class Glow(nn.Module):
    """p(x | content, style) for spectrogram features x, exactly, by a multi-scale flow.

    Tricks: quantised content code with a piano-roll head, so that little timbre fits into the code; gated tanh units
    conditioned on content and style (the 2022 proposal); prior mean and deviation from the content (Glow-TTS, Kim et
    al. 2020); style normalisation inside the couplings (SNAC, Choi et al. 2022); a deterministic prediction whose
    residual the flow models (as the flow post-net of PortaSpeech, Ren et al. 2021); bounded log-scales;
    explicit actnorm start. Log-determinants, actnorm, 1x1 convolutions and priors stay in float32 under autocast.
    Run inference in float32: under autocast the inverse is only as exact as bfloat16.

    Train it on targets with Gaussian noise: a rendered sound is a function of its conditions, so that the likelihood
    of a clean one is unbounded.
    """

    def __init__(self, config: GlowConfig) -> None:
        super().__init__()
        self.config = config
        style = config.style
        self.content_path = build_content_path(config.content, config.quantizer, n_features=config.n_features)
        code_dim = self.content_path.code_dim
        self.style_encoder = build_style_encoder(style, n_features=config.n_features)
        self.dropout = ConditionDropout(
            config.condition_dropout, code_dim=code_dim, n_tokens=style.n_tokens, token_dim=style.dim
        )
        self.decoder = None
        if config.decoder_width:
            self.decoder = FilmDecoder(
                n_features=config.n_features,
                code_dim=code_dim,
                n_tokens=style.n_tokens,
                token_dim=style.dim,
                width=config.decoder_width,
                n_blocks=config.decoder_blocks,
                n_strides=config.content.n_strides,
            )
        self.condition_network = ConditionNetwork(
            n_features=config.n_features,
            code_dim=code_dim,
            n_tokens=style.n_tokens,
            token_dim=style.dim,
            width=config.context_width,
            n_blocks=config.n_context_blocks,
            n_levels=config.n_levels,
            downsample=config.content.downsample,
            max_log_scale=config.max_log_scale,
            sees_prediction=self.decoder is not None,
        )
        self.flow = Flow(config.n_features, self._step, n_levels=config.n_levels, n_steps=config.n_steps)

    def _step(self, channels: int) -> InvertibleLayer:
        config = self.config
        limit, width = config.max_log_scale, config.context_width
        return InvertibleSequence(
            actnorm=ActNorm(channels),
            mix=InvertibleConv(channels),
            coupling=AffineCoupling(
                channels,
                context_channels=width,
                hidden_channels=config.hidden_channels,
                n_layers=config.n_layers,
                kernel=config.kernel,
                max_log_scale=limit,
                style_norm=StyleNorm(channels, width, max_log_scale=limit) if config.style_norm else None,
            ),
        )

    @torch.no_grad()
    def initialize(self, x: Tensor, content: Tensor, style: Tensor) -> None:
        """Data-dependent start of the flow from one real batch; arguments as in `forward`. Call it once, first."""
        conditions = self.condition(self.content_path(content).code, self.style_encoder(style), frames=x.shape[-1])
        self.flow.initialize(self.to_residual(x, conditions), conditions.contexts)

    def condition(self, code: Tensor, tokens: Tensor, *, frames: int) -> Conditions:
        """Conditions of the flow from a content code and style tokens.

        Args:
            code: [B, D, ceil(frames / downsample)].
            tokens: [B, K, D].
            frames: T of the features that will be modelled or sampled.
        """
        prediction = None if self.decoder is None else full_precision(self.decoder(code, tokens, frames))
        return cast(Conditions, self.condition_network(code, tokens, frames=frames, prediction=prediction))

    def likelihood(self, x: Tensor, conditions: Conditions) -> Likelihood:
        """Exact likelihood of x, [B, M, T], differentiable in the conditions (so a style can be fitted to a clip).

        It is that of the first frames, as many as the flow takes whole: repeated frames that fill the last few up to
        its multiple would count as data.

        Raises:
            TimbreflowError: T is below the flow's multiple.
        """
        frames = x.shape[-1] // self.flow.multiple * self.flow.multiple
        if frames == 0:
            raise TimbreflowError(f"A likelihood needs {self.flow.multiple} frames; give a longer clip.")
        conditions = conditions.first(frames)
        x = self.to_residual(x[..., :frames], conditions)
        z, log_det = self.flow(x, conditions.contexts)
        log_prior = torch.stack(list(map(gaussian_log_prob, z, conditions.means, conditions.log_sigmas))).sum(0)
        nll = -(log_prior + log_det)
        return Likelihood(z, log_det, log_prior, nll, nll / x[0].numel())

    def sample(self, conditions: Conditions, *, temperature: float = 0.25, generator: Noise = None) -> Tensor:
        """Draw features, [B, M, T]; differentiable, so that a loss can look at the sample of temperature 0."""
        z = sample_gaussians(conditions.means, conditions.log_sigmas, temperature, generator)
        return self.from_residual(self.flow.inverse(z, conditions.contexts), conditions)

    def forward(self, x: Tensor, content: Tensor, style: Tensor) -> GlowOutput:
        """Likelihood of x given the notes of content and the timbre of style.

        Args:
            x: [B, M, T] normalised features of the target, with its noise.
            content: [B, M, T] normalised features; as long as x.
            style: [B, M, S] normalised features, any S >= 1.
        """
        found = self.content_path(content)
        tokens = self.style_encoder(style)
        code, used_tokens = self.dropout(found.code, tokens)
        conditions = self.condition(code, used_tokens, frames=x.shape[-1])
        return GlowOutput(self.likelihood(x, conditions), found, full_precision(tokens), conditions)

    def transfer(self, content: Tensor, style: Tensor, *, temperature: float = 0.25, generator: Noise = None) -> Tensor:
        """See `TransferModel.transfer`: samples from the prior of the content, decoded under the style.

        Raises:
            TimbreflowError: more than `MAX_NAN_SHARE` of the values are NaN.
        """
        return self.transfer_with_tokens(
            content, self.style_encoder(style), temperature=temperature, generator=generator
        )

    def transfer_with_tokens(
        self, content: Tensor, tokens: Tensor, *, temperature: float = 0.25, generator: Noise = None
    ) -> Tensor:
        """As `transfer`, with a style that is given as tokens, [B, K, D], such as fitted ones.

        Raises:
            TimbreflowError: more than `MAX_NAN_SHARE` of the values are NaN.
        """
        conditions = self.condition(self.content_path(content).code, tokens, frames=content.shape[-1])
        return _usable(self.sample(conditions, temperature=temperature, generator=generator))

    def convert(self, source: Tensor, source_style: Tensor, target_style: Tensor) -> Tensor:
        """Encode a clip under its own style and decode its latents under another; preserves articulation and noise.

        Args:
            source: [B, M, T] normalised features of the clip, which is also the content.
            source_style: [B, M, S] a clip of the source's timbre; the source itself will do.
            target_style: [B, M, S'] a clip of the wanted timbre.

        Returns:
            [B, M, T] normalised features. With target_style = source_style this is the source again.
        """
        return self.convert_with_tokens(source, self.style_encoder(source_style), self.style_encoder(target_style))

    def convert_with_tokens(self, source: Tensor, source_tokens: Tensor, target_tokens: Tensor) -> Tensor:
        """As `convert`, with styles that are given as tokens, [B, K, D].

        Raises:
            TimbreflowError: more than `MAX_NAN_SHARE` of the values are NaN.
        """
        code = self.content_path(source).code
        frames = source.shape[-1]
        own = self.condition(code, source_tokens, frames=frames)
        other = self.condition(code, target_tokens, frames=frames)
        z, _ = self.flow(self.to_residual(source, own), own.contexts)
        return _usable(self.from_residual(self.flow.inverse(z, other.contexts), other))

    def to_residual(self, x: Tensor, conditions: Conditions) -> Tensor:
        """Input of the flow: x minus the decoder's prediction, padded, [B, M, T] -> [B, M, P]."""
        residual = x if conditions.prediction is None else x - conditions.prediction
        return full_precision(pad_frames(residual, self.flow.multiple))

    def from_residual(self, residual: Tensor, conditions: Conditions) -> Tensor:
        """Features [B, M, T] from the flow's output [B, M, P]; the inverse of `to_residual`."""
        residual = residual[..., : conditions.frames]
        return residual if conditions.prediction is None else residual + conditions.prediction


def _usable(features: Tensor) -> Tensor:
    """Output of the inverse flow as bounded features without NaN.

    An inverse flow that has hardly been trained can overflow, and features are logarithms that get exponentiated.
    """
    nan_share = float(features.isnan().float().mean((1, 2)).max())  # of the clip that has the most
    if nan_share > MAX_NAN_SHARE:
        raise TimbreflowError(
            f"The flow gave NaN in {nan_share:.0%} of its values; train it again or lower the temperature."
        )
    return features.nan_to_num(nan=0.0).clamp(-MAX_FEATURE, MAX_FEATURE)
