"""Tiny real models, built once."""

from pathlib import Path

import pytest

from tests.inference.tiny import save_bundles
from timbreflow.inference.transfer import TimbreTransfer


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of an untrained VQ-VAE and Glow."""
    return save_bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def vqvae(bundles: dict[str, Path]) -> TimbreTransfer:
    """The untrained VQ-VAE, ready to transfer."""
    return TimbreTransfer.load(bundles["vqvae"])
