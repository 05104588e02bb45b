"""The vector-quantised autoencoder for one-shot timbre transfer, in the paper's recipe and in ours."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.base import Noise
from timbreflow.models.blocks import full_precision
from timbreflow.models.conditioning import ConditionDropout
from timbreflow.models.content import ContentPath
from timbreflow.models.decoders import FilmDecoder, GruDecoder
from timbreflow.models.encoders import ContentConfig, StyleConfig, StyleEncoder
from timbreflow.models.quantizer import QuantizerConfig


@dataclass(frozen=True)
class VQVAEConfig:
    """Shape of a VQ-VAE.

    Attributes:
        n_features: bins of the features, M (mel bands, or n_fft / 2 + 1).
        content: content encoder and note head.
        quantizer: codebooks of the content code.
        style: style encoder.
        decoder: "film" (ours) or "gru" (2021 paper).
        width: channels of the decoder.
        n_blocks: FiLM blocks at the rate of the code ("gru" ignores it).
        condition_dropout: probability that a clip's content code, or its style, is hidden in training.
    """

    n_features: int
    content: ContentConfig
    quantizer: QuantizerConfig
    style: StyleConfig
    decoder: Literal["film", "gru"]
    width: int
    n_blocks: int
    condition_dropout: float

    def __post_init__(self) -> None:
        """Refuse a gru decoder that has no rate to double or several tokens to concatenate."""
        if self.decoder == "gru" and (self.content.downsample == 1 or self.style.n_tokens != 1):
            raise TimbreflowError(
                "decoder gru needs content.downsample 2 or 4 and style.n_tokens 1; mend them in params.yaml."
            )


@dataclass(frozen=True)
class VQVAEOutput:
    """What a forward pass gives.

    Attributes:
        prediction: [B, M, T] float32 normalised features.
        commitment_loss: scalar.
        roll_logits: [B, 128, T] float32, or None without a note head.
        codes: [B, t] int64.
        perplexity: scalar.
        content_code: [B, D, t] quantised.
        content_encoded: [B, D, t] before quantisation.
        style_tokens: [B, K, D].
    """

    prediction: Tensor
    commitment_loss: Tensor
    roll_logits: Tensor | None
    codes: Tensor
    perplexity: Tensor
    content_code: Tensor
    content_encoded: Tensor
    style_tokens: Tensor


class VQVAE(nn.Module):
    """Content clip through a quantised bottleneck, style clip as tokens, decoder that joins them.

    Tricks: moving-average codebooks with k-means start and dead-code revival (van den Oord et al. 2017; library
    vector-quantize-pytorch); product quantisation for chords; piano-roll head on the quantised code; shuffled and
    bin-shifted style chunks; several style tokens; condition dropout. The "gru" decoder with the "strided" and "gru"
    encoders is the recipe of Cífka et al. 2021 (arXiv 2102.05749).
    """

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        token_dim = config.style.dim
        self.content_path = ContentPath(config.content, config.quantizer, n_features=config.n_features)
        code_dim = self.content_path.code_dim
        self.style_encoder = StyleEncoder(config.style, n_features=config.n_features)
        self.dropout = None
        if config.condition_dropout:
            self.dropout = ConditionDropout(
                config.condition_dropout, code_dim=code_dim, n_tokens=config.style.n_tokens, token_dim=token_dim
            )
        self.decoder: nn.Module
        n_strides = config.content.n_strides
        if config.decoder == "film":
            self.decoder = FilmDecoder(
                n_features=config.n_features,
                code_dim=code_dim,
                n_tokens=config.style.n_tokens,
                token_dim=token_dim,
                width=config.width,
                n_blocks=config.n_blocks,
                n_strides=n_strides,
            )
        else:
            self.decoder = GruDecoder(
                n_features=config.n_features,
                code_dim=code_dim,
                token_dim=token_dim,
                width=config.width,
                n_strides=n_strides,
            )

    def forward(self, content: Tensor, style: Tensor) -> VQVAEOutput:
        """Play the notes of content with the timbre of style.

        Args:
            content: [B, M, T] normalised features, any T >= 1.
            style: [B, M, S] normalised features, any S >= 1.
        """
        found = self.content_path(content)
        tokens = self.style_encoder(style)
        code, used_tokens = found.code, tokens
        if self.dropout is not None:
            code, used_tokens = self.dropout(code, tokens)
        prediction = full_precision(self.decoder(code, used_tokens, content.shape[-1]))
        roll = None if found.roll_logits is None else full_precision(found.roll_logits)
        return VQVAEOutput(
            prediction,
            found.commitment_loss,
            roll,
            found.codes,
            found.perplexity,
            found.code,
            found.encoded,
            full_precision(tokens),
        )

    def transfer(self, content: Tensor, style: Tensor, *, temperature: float = 0.0, generator: Noise = None) -> Tensor:
        """See `TransferModel.transfer`; this model is deterministic, so temperature and generator change nothing."""
        del temperature, generator
        prediction: Tensor = self(content, style).prediction
        return prediction
