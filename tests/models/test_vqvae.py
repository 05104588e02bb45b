"""What only the VQ-VAE promises."""

from dataclasses import replace

import pytest
import torch

from timbreflow.errors import TimbreflowError
from timbreflow.models.vqvae import VQVAE, VQVAEConfig


def test_output_shapes(base_config: VQVAEConfig, paper_config: VQVAEConfig) -> None:
    content, style = torch.randn(2, 12, 21), torch.randn(2, 12, 30)
    out = VQVAE(base_config)(content, style)
    assert out.prediction.shape == (2, 12, 21)
    assert out.content.pianoroll_logits is not None
    assert out.content.pianoroll_logits.shape == (2, 128, 21)
    assert out.content.codes.shape == (2, 11)
    assert out.content.codes.dtype == torch.int64
    assert out.content.code.shape == (2, 8 + 4, 11), "the code and the piano roll beside it"
    assert out.content.encoded.shape == (2, 8, 11)
    assert out.style_tokens.shape == (2, 2, 8)
    assert out.content.commitment_loss.shape == ()
    assert out.content.perplexity.shape == ()
    out = VQVAE(paper_config)(content, style)
    assert out.prediction.shape == (2, 12, 21)
    assert out.content.codes.shape == (2, 6)
    assert out.content.pianoroll_logits is None
    assert out.style_tokens.shape == (2, 1, 16)


def test_paper_at_full_width_has_its_53_million_parameters(paper_config: VQVAEConfig) -> None:
    full = replace(
        paper_config,
        n_features=1025,
        width=1024,
        content=replace(paper_config.content, width=1024),
        quantizer=replace(paper_config.quantizer, codebook_size=2048, code_dim=1024),
        style=replace(paper_config.style, width=1024, dim=1024),
    )
    with torch.device("meta"):
        model = VQVAE(full)
    assert 50e6 < sum(p.numel() for p in model.parameters()) < 56e6


def test_content_reaches_the_output_through_codes_only(base_config: VQVAEConfig) -> None:
    torch.manual_seed(0)
    model = VQVAE(base_config).eval()
    content, style = torch.randn(1, 12, 16), torch.randn(1, 12, 16)
    nudged = content + 1e-5
    first, second = model(content, style), model(nudged, style)
    assert torch.equal(first.content.codes, second.content.codes)
    torch.testing.assert_close(first.prediction, second.prediction, rtol=1e-4, atol=1e-5)


def test_gru_decoder_needs_a_rate_to_double(paper_config: VQVAEConfig, base_config: VQVAEConfig) -> None:
    with pytest.raises(TimbreflowError, match="decoder gru"):
        replace(base_config, decoder="gru")
