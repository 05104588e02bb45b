"""Tiny configurations of every shipped shape, and structured toy spectrograms."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from timbreflow.models.content import ContentConfig
from timbreflow.models.glow.model import GlowConfig
from timbreflow.models.quantizer import QuantizerConfig
from timbreflow.models.style import StyleConfig
from timbreflow.models.timbre_metric import TripletConfig
from timbreflow.models.vqvae import VQVAEConfig

M = 12


def _quantizer(heads: int, dim: int = 8) -> QuantizerConfig:
    return QuantizerConfig(
        codebook_size=16,
        code_dim=dim,
        heads=heads,
        distance="euclidean",
        decay=0.9,
        dead_code_threshold=0.1,
        kmeans_iters=3,
    )


_CONTENT = ContentConfig(
    "residual", width=16, downsample=2, n_blocks=1, instance_norm=False, pianoroll_head_width=8, pianoroll_channels=4
)
_STYLE = StyleConfig("tokens", width=16, dim=8, n_tokens=2, n_blocks=1, chunk_frames=8, max_bin_shift=1, noise=0.05)
_BASE = VQVAEConfig(
    n_features=M,
    content=_CONTENT,
    quantizer=_quantizer(2),
    style=_STYLE,
    decoder="film",
    width=16,
    n_blocks=2,
    condition_dropout=0.1,
)
_PAPER = VQVAEConfig(
    n_features=M,
    content=ContentConfig(
        "strided", width=16, downsample=4, n_blocks=0, instance_norm=False, pianoroll_head_width=0, pianoroll_channels=0
    ),
    quantizer=_quantizer(1, 16),
    style=StyleConfig("gru", width=16, dim=16, n_tokens=1, n_blocks=0, chunk_frames=0, max_bin_shift=0, noise=0.0),
    decoder="gru",
    width=16,
    n_blocks=0,
    condition_dropout=0.0,
)
_GLOW = GlowConfig(
    n_features=M,
    content=_CONTENT,
    quantizer=_quantizer(2),
    style=_STYLE,
    decoder_width=0,
    decoder_blocks=0,
    context_width=16,
    n_context_blocks=1,
    n_levels=2,
    n_steps=2,
    hidden_channels=16,
    n_layers=2,
    kernel=3,
    max_log_scale=2.0,
    style_norm=True,
    condition_dropout=0.1,
)
_TRIPLET = TripletConfig(n_coefficients=12, channels=16, kernels=(4, 4, 4, 2))

_TRANSFER: dict[str, tuple[str, VQVAEConfig | GlowConfig]] = {
    "base": ("vqvae", _BASE),
    "paper": ("vqvae", _PAPER),
    "glow": ("glow", _GLOW),
    "glow_with_decoder": ("glow", replace(_GLOW, decoder_width=24, decoder_blocks=1)),
    "glow_one_level": ("glow", replace(_GLOW, n_levels=1, style_norm=False)),
    "base_other_rates": (
        "vqvae",
        replace(
            _BASE,
            content=replace(_CONTENT, downsample=4, instance_norm=True),
            quantizer=replace(_quantizer(1), distance="cosine"),
        ),
    ),
    "glow_full_rate": ("glow", replace(_GLOW, content=replace(_CONTENT, downsample=1))),
}


@pytest.fixture(params=sorted(_TRANSFER))
def transfer_kind_config(request: pytest.FixtureRequest) -> tuple[str, VQVAEConfig | GlowConfig]:
    """(kind, tiny configuration) of each transfer model."""
    return _TRANSFER[request.param]


@pytest.fixture(params=[*sorted(_TRANSFER), "triplet"])
def any_kind_config(request: pytest.FixtureRequest) -> tuple[str, VQVAEConfig | GlowConfig | TripletConfig]:
    """(kind, tiny configuration) of each model."""
    return ("triplet", _TRIPLET) if request.param == "triplet" else _TRANSFER[request.param]


@pytest.fixture
def base_config() -> VQVAEConfig:
    """Tiny VQ-VAE of our recipe."""
    return _BASE


@pytest.fixture
def paper_config() -> VQVAEConfig:
    """Tiny VQ-VAE of the 2021 paper's recipe."""
    return _PAPER


@pytest.fixture
def glow_config() -> GlowConfig:
    """Tiny Glow of two levels with style normalisation."""
    return _GLOW


@pytest.fixture(params=["glow", "glow_with_decoder"])
def either_glow_config(request: pytest.FixtureRequest) -> GlowConfig:
    """The same, and one whose flow models what a decoder leaves of x."""
    config = _TRANSFER[request.param][1]
    assert isinstance(config, GlowConfig)
    return config


@pytest.fixture
def triplet_config() -> TripletConfig:
    """The timbre metric with fewer channels."""
    return _TRIPLET


@pytest.fixture
def randomize() -> Callable[[nn.Module, float], None]:
    """Move every parameter away from its start, so that no layer is the identity by a zero start."""

    def move(module: nn.Module, scale: float = 0.2) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(scale * torch.randn_like(parameter))

    return move


@pytest.fixture
def toy_batch() -> Callable[[int, int], dict[str, Tensor]]:
    """Triples of toy spectrograms: notes are lines, a timbre is a pattern of partials over them."""

    def make(batch: int = 8, frames: int = 32) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        timbres = torch.rand(batch, 3, generator=generator)

        def draw(notes: Tensor, timbre: Tensor) -> Tensor:
            sound = torch.zeros(len(notes), M, frames)
            for partial in range(3):
                lines = nn.functional.one_hot((notes + 4 * partial).clamp(max=M - 1), M).transpose(1, 2)
                sound += timbre[:, partial, None, None] * lines
            return 3 * sound - 1

        def melody() -> Tensor:
            return torch.randint(0, 4, (batch, frames // 4), generator=generator).repeat_interleave(4, 1)

        notes = melody()
        roll = nn.functional.one_hot(notes + 60, 128).transpose(1, 2).bool()
        other = timbres[torch.randperm(batch, generator=generator)]
        return {
            "content": draw(notes, other),
            "style": draw(melody(), timbres),
            "target": draw(notes, timbres),
            "roll": roll,
        }

    return make
