"""Tiny real models and recordings."""

from pathlib import Path

import numpy as np
import torch

from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.models.bundle import ModelBundle, save_bundle
from timbreflow.models.content import ContentConfig
from timbreflow.models.glow.model import Glow, GlowConfig
from timbreflow.models.quantizer import QuantizerConfig
from timbreflow.models.style import StyleConfig
from timbreflow.models.vqvae import VQVAE, VQVAEConfig

FEATURES = FeatureConfig("log_mel", 16000, 1024, 1000, 500, 40, 40.0, 8000.0, 0.01)
CONTENT = ContentConfig("residual", 8, 2, 1, False, 0, 0)
QUANTIZER = QuantizerConfig(16, 8, 1, "euclidean", 0.9, 0.1, 1)
STYLE = StyleConfig("tokens", 8, 8, 2, 1, 0, 0, 0.0)


def build(kind: str) -> torch.nn.Module:
    torch.manual_seed(1)
    if kind == "vqvae":
        return VQVAE(VQVAEConfig(40, CONTENT, QUANTIZER, STYLE, "film", 16, 1, 0.0))
    return Glow(GlowConfig(40, CONTENT, QUANTIZER, STYLE, 0, 0, 16, 1, 2, 1, 16, 1, 3, 2.0, True, 0.0))


def save_bundles(folder: Path) -> dict[str, Path]:
    """Folders of an untrained VQ-VAE and Glow. Statistics are those of music, so that the output sounds."""
    for kind in ("vqvae", "glow"):
        normalizer = Normalizer(torch.full((40,), -1.0), torch.full((40,), 1.5))
        save_bundle(folder / kind, ModelBundle(kind, build(kind), FEATURES, normalizer, {"steps": 0}))
    return {kind: folder / kind for kind in ("vqvae", "glow")}


def melody(seconds: float, sample_rate: int, *, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """[N] float32: decaying notes with two partials, a new one every quarter of a second."""
    random = np.random.default_rng(seed)
    n = round(seconds * sample_rate)
    time = np.arange(n) / sample_rate
    note = (time * 4).astype(int)
    pitch = 220 * 2 ** (random.integers(0, 24, note.max(initial=0) + 1) / 12)
    phase = 2 * np.pi * np.cumsum(pitch[note]) / sample_rate
    sound = (np.sin(phase) + 0.5 * np.sin(2 * phase)) * np.exp(-6 * (time * 4 % 1) / 4)
    return (level * sound).astype(np.float32)
