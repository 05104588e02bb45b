"""The conditioned Glow: content code and style tokens around the flow."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.base import Noise
from timbreflow.models.blocks import full_precision, pad_frames
from timbreflow.models.conditioning import ConditionDropout
from timbreflow.models.content import ContentCode, ContentPath
from timbreflow.models.decoders import FilmDecoder
from timbreflow.models.encoders import ContentConfig, StyleConfig, StyleEncoder
from timbreflow.models.glow.conditions import ConditionNetwork, Conditions
from timbreflow.models.glow.coupling import CouplingConfig
from timbreflow.models.glow.flow import Flow
from timbreflow.models.glow.prior import gaussian_log_prob, sample_gaussians
from timbreflow.models.quantizer import QuantizerConfig

LARGEST_FEATURE = 10.0
"""Normalised features of sound lie within some 5 deviations of 0."""
MOST_NAN = 0.01
"""Share of NaN that is mended by the mean, 0, as where two overflows met; with more the model is broken."""


@dataclass(frozen=True)
class GlowConfig:
    """Shape of a Glow.

    Attributes:
        n_features: bins of the features, M.
        content: content encoder and note head.
        quantizer: codebooks of the content code.
        style: style encoder.
        decoder_width: channels of a decoder like the VQ-VAE's, whose prediction is taken from x before the flow, which
            models what is left; 0 for none, where the flow models x itself.
        decoder_blocks: FiLM blocks of that decoder at the rate of the code.
        context_width: channels of the conditions.
        n_context_blocks: residual blocks between the code and the conditions.
        n_levels: levels of [squeeze, steps, split].
        n_steps: steps in each level.
        hidden: channels inside a coupling network.
        n_layers: gated tanh units in a coupling network.
        kernel: odd length of their convolutions, in frames of the level.
        bound: largest absolute log-scale of a coupling, of the style normalisation, and of the prior's sigma.
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
    hidden: int
    n_layers: int
    kernel: int
    bound: float
    style_norm: bool
    condition_dropout: float

    def __post_init__(self) -> None:
        """Refuse kernels without a middle, empty flows, unbounded scales and decoders of less than nothing."""
        if self.decoder_width < 0 or self.decoder_blocks < 0:
            raise TimbreflowError("glow: decoder_width and decoder_blocks must be 0 or more; mend them in params.yaml.")
        if self.kernel % 2 == 0 or self.n_levels < 1 or self.n_steps < 1 or self.n_layers < 1 or self.bound <= 0:
            raise TimbreflowError(
                "glow: kernel must be odd, n_levels, n_steps and n_layers at least 1, bound above 0; "
                "mend them in params.yaml."
            )


@dataclass(frozen=True)
class GlowOutput:
    """What a forward pass gives. Likelihoods are of x as given, noise and all: quote them with that noise's sigma.

    Attributes:
        z: one latent a level, the finest first.
        log_det: [B] log-determinant of the flow, in nats.
        log_prior: [B] log-density of z under the content's prior, in nats.
        nll: [B] -log p(x | content, style) = -(log_prior + log_det), in nats.
        nll_per_dim: [B] nll over the number of values that count.
        bits_per_dim: [B] nll_per_dim / ln 2.
        commitment_loss: scalar.
        perplexity: scalar.
        codes: [B, t] int64.
        roll_logits: [B, 128, T], or None without a note head.
        content_code: [B, D, t] quantised.
        content_encoded: [B, D, t] before quantisation.
        style_tokens: [B, K, D].
        conditions: for `Glow.sample` with these very conditions, without encoding again.
    """

    z: list[Tensor]
    log_det: Tensor
    log_prior: Tensor
    nll: Tensor
    nll_per_dim: Tensor
    bits_per_dim: Tensor
    commitment_loss: Tensor
    perplexity: Tensor
    codes: Tensor
    roll_logits: Tensor | None
    content_code: Tensor
    content_encoded: Tensor
    style_tokens: Tensor
    conditions: Conditions


@dataclass(frozen=True)
class Likelihood:
    """Exact likelihood of features under given conditions; fields as in `GlowOutput`."""

    z: list[Tensor]
    log_det: Tensor
    log_prior: Tensor
    nll: Tensor
    nll_per_dim: Tensor


class Glow(nn.Module):
    """p(x | content, style) for spectrogram features x, exactly, by a multi-scale flow.

    Tricks: quantised content code with a note head, so that the code cannot smuggle the timbre; gated tanh units
    conditioned on content and style (the 2022 proposal); prior mean and deviation from the content (Glow-TTS, Kim et
    al. 2020); style normalisation inside the couplings (SNAC, Choi et al. 2022); a deterministic prediction that the
    flow has only to correct (as the flow post-net of PortaSpeech, Ren et al. 2021, but subtracted); bounded log-scales;
    explicit actnorm start. Log-determinants, actnorm, 1x1 convolutions and priors stay in float32 under autocast.
    Inference wants float32: under autocast the inverse is only as exact as bfloat16.

    Train it on targets with Gaussian noise: a rendered sound is a function of its conditions, so that the likelihood
    of a clean one is unbounded.
    """

    def __init__(self, config: GlowConfig) -> None:
        super().__init__()
        self.config = config
        style = config.style
        self.content_path = ContentPath(config.content, config.quantizer, n_features=config.n_features)
        code_dim = self.content_path.code_dim
        self.style_encoder = StyleEncoder(style, n_features=config.n_features)
        self.dropout = None
        if config.condition_dropout:
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
            bound=config.bound,
            sees_prediction=self.decoder is not None,
        )
        coupling = CouplingConfig(
            context_channels=config.context_width,
            style_dim=config.context_width,
            hidden=config.hidden,
            n_layers=config.n_layers,
            kernel=config.kernel,
            bound=config.bound,
            style_norm=config.style_norm,
        )
        self.flow = Flow(config.n_features, coupling, n_levels=config.n_levels, n_steps=config.n_steps)

    @torch.no_grad()
    def initialize(self, x: Tensor, content: Tensor, style: Tensor, *, mask: Tensor | None = None) -> None:
        """Data-dependent start of the actnorms from one real batch; arguments as in `forward`. Call it once, first."""
        conditions = self.condition(
            self.content_path(content).code, self.style_encoder(style), frames=x.shape[-1], mask=mask
        )
        self.flow.initialize(self._left(x, conditions), conditions.contexts)

    def condition(self, code: Tensor, tokens: Tensor, *, frames: int, mask: Tensor | None = None) -> Conditions:
        """Conditions of the flow from a content code and style tokens.

        Args:
            code: [B, D, ceil(frames / downsample)].
            tokens: [B, K, D].
            frames: T of the features that will be modelled or sampled.
            mask: [B, T] bool, True where a frame counts; whole groups of 2 ** n_levels frames count when any does.
        """
        prediction = None if self.decoder is None else full_precision(self.decoder(code, tokens, frames))
        padded_mask = self._padded_mask(mask, code, frames)
        return self.condition_network(code, tokens, frames=frames, mask=padded_mask, prediction=prediction)

    def likelihood(self, x: Tensor, conditions: Conditions) -> Likelihood:
        """Exact likelihood of x, [B, M, T], differentiable in the conditions (so a style can be fitted to a clip)."""
        x = self._left(x, conditions)
        z, log_det = self.flow(x, conditions.contexts)
        terms = [
            gaussian_log_prob(latent, mean, log_sigma, context.mask)
            for latent, mean, log_sigma, context in zip(
                z, conditions.means, conditions.log_sigmas, conditions.contexts, strict=True
            )
        ]
        log_prior = torch.stack(terms).sum(0)
        nll = -(log_prior + log_det)
        mask = conditions.contexts[-1].mask
        frames = x.new_full((len(x),), x.shape[-1]) if mask is None else mask.sum((1, 2)) * self.flow.multiple
        return Likelihood(z, log_det, log_prior, nll, nll / (frames * x.shape[1]).clamp_min(1))

    def sample(self, conditions: Conditions, *, temperature: float = 0.25, generator: Noise = None) -> Tensor:
        """Draw features, [B, M, T]; differentiable, so that a loss can look at the sample of temperature 0."""
        z = sample_gaussians(conditions.means, conditions.log_sigmas, temperature, generator)
        return self._whole(z, conditions)

    def forward(self, x: Tensor, content: Tensor, style: Tensor, *, mask: Tensor | None = None) -> GlowOutput:
        """Likelihood of x given the notes of content and the timbre of style.

        Args:
            x: [B, M, T] normalised features of the target, with its noise.
            content: [B, M, T] normalised features; as long as x.
            style: [B, M, S] normalised features, any S >= 1.
            mask: [B, T] bool, True where a frame of x counts.
        """
        found: ContentCode = self.content_path(content)
        tokens = self.style_encoder(style)
        code, used_tokens = found.code, tokens
        if self.dropout is not None:
            code, used_tokens = self.dropout(code, tokens)
        conditions = self.condition(code, used_tokens, frames=x.shape[-1], mask=mask)
        result = self.likelihood(x, conditions)
        return GlowOutput(
            z=result.z,
            log_det=result.log_det,
            log_prior=result.log_prior,
            nll=result.nll,
            nll_per_dim=result.nll_per_dim,
            bits_per_dim=result.nll_per_dim / math.log(2),
            commitment_loss=found.commitment_loss,
            perplexity=found.perplexity,
            codes=found.codes,
            roll_logits=None if found.roll_logits is None else full_precision(found.roll_logits),
            content_code=found.code,
            content_encoded=found.encoded,
            style_tokens=full_precision(tokens),
            conditions=conditions,
        )

    def transfer(self, content: Tensor, style: Tensor, *, temperature: float = 0.25, generator: Noise = None) -> Tensor:
        """See `TransferModel.transfer`: samples from the prior of the content, decoded under the style.

        Raises:
            TimbreflowError: more than `MOST_NAN` of the values are NaN.
        """
        return self.transfer_with_tokens(
            content, self.style_encoder(style), temperature=temperature, generator=generator
        )

    def transfer_with_tokens(
        self, content: Tensor, tokens: Tensor, *, temperature: float = 0.25, generator: Noise = None
    ) -> Tensor:
        """As `transfer`, with a style that is given as tokens, [B, K, D], such as fitted ones.

        Raises:
            TimbreflowError: more than `MOST_NAN` of the values are NaN.
        """
        conditions = self.condition(self.content_path(content).code, tokens, frames=content.shape[-1])
        return _usable(self.sample(conditions, temperature=temperature, generator=generator))

    def convert(self, source: Tensor, source_style: Tensor, target_style: Tensor) -> Tensor:
        """Encode a clip under its own style and decode its latents under another: keeps what no condition tells.

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
            TimbreflowError: more than `MOST_NAN` of the values are NaN.
        """
        code = self.content_path(source).code
        frames = source.shape[-1]
        own = self.condition(code, source_tokens, frames=frames)
        other = self.condition(code, target_tokens, frames=frames)
        z, _ = self.flow(self._left(source, own), own.contexts)
        return _usable(self._whole(z, other))

    def _left(self, x: Tensor, conditions: Conditions) -> Tensor:
        """What the flow takes: x without what the decoder predicts of it, [B, M, T] -> [B, M, P]."""
        left = x if conditions.prediction is None else x - conditions.prediction
        return full_precision(pad_frames(left, self.flow.multiple))

    def _whole(self, z: list[Tensor], conditions: Conditions) -> Tensor:
        """The features [B, M, T] of latents, `_left` undone."""
        left = self.flow.inverse(z, conditions.contexts)[..., : conditions.frames]
        return left if conditions.prediction is None else left + conditions.prediction

    def _padded_mask(self, mask: Tensor | None, like: Tensor, frames: int) -> Tensor | None:
        """[B, T] -> [B, 1, P] float, constant in each group of frames that the levels fold together."""
        multiple = self.flow.multiple
        padding = -frames % multiple
        if mask is None and padding == 0:
            return None
        counts = torch.ones(len(like), frames, device=like.device) if mask is None else mask.float()
        counts = F.pad(counts, (0, padding))[:, None]
        return F.max_pool1d(counts, multiple).repeat_interleave(multiple, dim=-1)


def _usable(made: Tensor) -> Tensor:
    """What left the inverse flow, as features: few NaN mended, the others bounded."""
    broken = float(made.isnan().float().mean((1, 2)).max())  # of the clip that has the most
    if broken > MOST_NAN:
        raise TimbreflowError(
            f"The flow gave NaN in {broken:.0%} of its values; train it again or lower the temperature."
        )
    # An inverse flow that has hardly been trained can overflow, and features are logarithms that get exponentiated.
    return made.nan_to_num(nan=0.0).clamp(-LARGEST_FEATURE, LARGEST_FEATURE)
