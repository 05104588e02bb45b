"""From features to sound by the trained vocoder, where it has shown that it beats Griffin-Lim."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from timbreflow.audio.features import FeatureConfig
from timbreflow.audio.inversion import GriffinLimInverter, Inverter
from timbreflow.errors import TimbreflowError
from timbreflow.inference.refining import refiner_sha256
from timbreflow.models.bundle import ModelBundle, load_bundle, weights_sha256
from timbreflow.models.vocoder import Vocoder

VERDICT = "beats_griffin_lim"
"""Key of the bundle's training record: 1 where the vocoder won on validation sound, 0 where it lost."""
CORRECTIONS = 8
"""Iterations of Griffin-Lim after the vocoder: more of them bring LSD down and lose notes (docs/experiments.md)."""
BLOCK_FRAMES = 512
"""Frames that go through the network at once, 16 s at hop 500 and 16 kHz."""


class VocoderInverter:
    """Sound from raw log-mels by the vocoder, corrected by Griffin-Lim; called as `GriffinLimInverter` is.

    The network has learned which partials lie in a band and how their phases continue; a few iterations of Griffin-Lim
    correct its levels. Long clips go through in blocks with as many frames around them as a sample depends on, so
    memory stays constant and the result is the same as in one pass.

    Args:
        bundle: of kind "vocoder"; its model is moved to the device of the features when it is called.

    Raises:
        TimbreflowError: the bundle holds another kind of model.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        if bundle.kind != "vocoder" or bundle.normalizer is None:
            raise TimbreflowError(f"A model of kind {bundle.kind} makes no sound of features; name a vocoder.")
        self.config = bundle.features
        self._normalizer = bundle.normalizer
        self._model = cast(Vocoder, bundle.model.eval())
        self._correct = GriffinLimInverter(bundle.features, n_iter=CORRECTIONS)

    @torch.no_grad()
    def __call__(self, features: Tensor, *, seed: int = 0) -> Tensor:
        """Invert a batch.

        Args:
            features: [B, M, T] raw (not normalised), on any device.
            seed: has no effect, nothing is drawn; inverters have one signature.

        Returns:
            audio [B, N] float32 on the same device, N = T * hop_length.

        Raises:
            TimbreflowError: the features have another number of rows, or are not finite.
        """
        del seed
        if features.ndim != 3 or features.shape[1] != self.config.n_features:
            raise TimbreflowError(
                f"Features of shape {tuple(features.shape)} cannot be inverted; give [B, {self.config.n_features}, T]."
            )
        if not bool(torch.isfinite(features).all()):
            raise TimbreflowError("Features hold NaN or infinity and cannot be inverted; check the model's weights.")
        hop, frames = self.config.hop_length, features.shape[2]
        audio = features.new_zeros(features.shape[0], frames * hop, dtype=torch.float32)
        model = self._model.to(features.device)
        context = model.config.context_frames
        for begin in range(0, frames, BLOCK_FRAMES):
            end = min(begin + BLOCK_FRAMES, frames)
            first = max(0, begin - context)
            part = self._normalizer.normalize(features[:, :, first : end + context].float())
            audio[:, begin * hop : end * hop] = model(part, first_frame=first)[
                :, (begin - first) * hop : (end - first) * hop
            ]
        return self._correct(features, start=audio)


def vocoder_beside(bundle: Path) -> Path:
    """Where the vocoder of a transfer model lies, if it has one: in data/models, released and the registry alike."""
    return bundle.parent / "vocoder"


def is_trusted(bundle: ModelBundle, features: FeatureConfig) -> bool:
    """Whether a bundle is a vocoder of these features that has beaten Griffin-Lim on validation sound."""
    return bundle.kind == "vocoder" and bundle.training.get(VERDICT) == 1 and bundle.features == features


def trusted_vocoder(folder: Path | None, features: FeatureConfig) -> ModelBundle | None:
    """The vocoder in a folder if there is one and it is to be trusted with these features.

    Raises:
        TimbreflowError: the folder is there and holds no bundle that can be read.
    """
    if folder is None or not folder.is_dir():
        return None
    bundle = load_bundle(folder)
    return bundle if is_trusted(bundle, features) else None


def identity(bundle: Path, vocoder: Path) -> dict[str, str]:
    """What a transfer model's figures are figures of: sha256 of its weights, of the refiner behind it (which
    lies beside it), and of the vocoder it is heard through.

    Args:
        bundle: folder of the transfer model.
        vocoder: folder of the vocoder, which need not be there.

    Returns:
        {"weights_sha256": ..., "refiner_sha256": ..., "vocoder_sha256": ...}; empty where there is no refiner, and
        where Griffin-Lim is better.

    Raises:
        TimbreflowError: there is no bundle, or one that cannot be read.
    """
    trusted = trusted_vocoder(vocoder, load_bundle(bundle).features)
    return {
        "weights_sha256": weights_sha256(bundle),
        "refiner_sha256": refiner_sha256(bundle),
        "vocoder_sha256": weights_sha256(vocoder) if trusted is not None else "",
    }


def open_inverter(
    features: FeatureConfig, vocoder: Path | None, *, n_iter: int = 32, momentum: float = 0.99
) -> Inverter:
    """The vocoder where there is one to trust for these features, Griffin-Lim alone otherwise.

    Args:
        features: to invert.
        vocoder: folder of the vocoder's bundle; None, or a folder that is not there, is no vocoder.
        n_iter: iterations of Griffin-Lim alone.
        momentum: of Griffin-Lim.

    Raises:
        TimbreflowError: the folder is there and holds no bundle that can be read.
    """
    bundle = trusted_vocoder(vocoder, features)
    if bundle is not None:
        return VocoderInverter(bundle)
    return GriffinLimInverter(features, n_iter=n_iter, momentum=momentum)
