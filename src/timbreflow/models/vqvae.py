"""The vector-quantised autoencoder for one-shot timbre transfer, in the recipe of 2021 and in ours."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from timbreflow.errors import TimbreflowError
from timbreflow.models.base import Noise
from timbreflow.models.blocks import full_precision
from timbreflow.models.content import ContentCode, ContentConfig, build_content_path
from timbreflow.models.decoders import ConditionDropout, FilmDecoder, GruDecoder
from timbreflow.models.quantizer import QuantizerConfig
from timbreflow.models.style import StyleConfig, build_style_encoder


@dataclass(frozen=True)
class VQVAEConfig:
    """Shape of a VQ-VAE.

    Attributes:
        n_features: bins of the features, M (mel bands, or n_fft / 2 + 1).
        content: content encoder and piano-roll head.
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
                f"decoder gru needs content.downsample 2 or 4 and style.n_tokens 1, not {self.content.downsample} and "
                f"{self.style.n_tokens}."
            )


@dataclass(frozen=True)
class VQVAEOutput:
    """Result of a forward pass.

    Attributes:
        prediction: [B, M, T] float32 normalised features.
        content: code of the content clip.
        style_tokens: [B, K, D] float32.
    """

    prediction: Tensor
    content: ContentCode
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
        style, n_strides = config.style, config.content.n_strides
        self.content_path = build_content_path(config.content, config.quantizer, n_features=config.n_features)
        code_dim = self.content_path.code_dim
        self.style_encoder = build_style_encoder(style, n_features=config.n_features)
        self.dropout = ConditionDropout(
            config.condition_dropout, code_dim=code_dim, n_tokens=style.n_tokens, token_dim=style.dim
        )
        self.decoder: nn.Module
        if config.decoder == "film":
            self.decoder = FilmDecoder(
                n_features=config.n_features,
                code_dim=code_dim,
                n_tokens=style.n_tokens,
                token_dim=style.dim,
                width=config.width,
                n_blocks=config.n_blocks,
                n_strides=n_strides,
            )
        else:
            self.decoder = GruDecoder(
                n_features=config.n_features,
                code_dim=code_dim,
                token_dim=style.dim,
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
        code, used_tokens = self.dropout(found.code, tokens)
        prediction = full_precision(self.decoder(code, used_tokens, content.shape[-1]))
        return VQVAEOutput(prediction, found, full_precision(tokens))

    def transfer(self, content: Tensor, style: Tensor, *, temperature: float = 0.0, generator: Noise = None) -> Tensor:
        """See `TransferModel.transfer`; this model is deterministic, so temperature and generator change nothing."""
        del temperature, generator
        return self.transfer_with_tokens(content, self.style_encoder(style))

    def transfer_with_tokens(
        self, content: Tensor, tokens: Tensor, *, temperature: float = 0.0, generator: Noise = None
    ) -> Tensor:
        """As `transfer`, with a style that is given as tokens, [B, K, D], such as a blend of several."""
        del temperature, generator
        code, used_tokens = self.dropout(self.content_path(content).code, tokens)
        return full_precision(self.decoder(code, used_tokens, content.shape[-1]))
