"""Sections of params.yaml that train something."""

from dataclasses import dataclass
from typing import Literal

from timbreflow.data.triples import Pairs
from timbreflow.errors import TimbreflowError
from timbreflow.models.glow.model import GlowConfig
from timbreflow.models.timbre_metric import TripletConfig
from timbreflow.models.vqvae import VQVAEConfig
from timbreflow.training.auxiliary import AuxiliaryWeights
from timbreflow.training.fit_config import FitConfig


@dataclass(frozen=True)
class TimbreMetricTraining:
    """Training of the triplet network that measures timbre.

    Args:
        model: its shape.
        fit: the loop.
        margin: of the hinge, in cosine similarity.
        hard_negatives: share of triplets whose negative plays the anchor's own notes with another timbre.
        validation_triplets: how many are scored at each validation.
        cache_mb: largest memory for the coefficients of decoded clips, in MB.
    """

    model: TripletConfig
    fit: FitConfig
    margin: float
    hard_negatives: float
    validation_triplets: int
    cache_mb: int

    def __post_init__(self) -> None:
        """Refuse shares outside 0..1 and empty sets."""
        if not 0 <= self.hard_negatives <= 1:
            raise TimbreflowError(f"hard_negatives is {self.hard_negatives}; set it between 0 and 1 in params.yaml.")
        if self.validation_triplets < 1 or self.cache_mb < 0:
            raise TimbreflowError("validation_triplets must be 1 or more and cache_mb 0 or more in params.yaml.")


@dataclass(frozen=True)
class VQVAETraining:
    """Training of one VQ-VAE.

    Args:
        features: "log_mel" reads data/mels; "log_stft" (the paper's 1025 bins) computes them from data/audio.
        pairs: what the content clip is: another timbre's render of the target's notes (triples), the target itself
            (self_supervised, the 2021 paper), or each for half of the triples (mixed).
        model: its shape.
        fit: the loop.
        reconstruction: "l1" or "mse" on normalised features.
        losses: weights of the auxiliary terms.
        validation_triples: how many are scored at each validation.
        crop_frames: frames of content and target that a training step sees, 0 for whole clips.
        online_triples: training triples (with render_triples.complete_squares: squares) that loader processes render
            during training, the same as render_triples would store; 0 reads the stored ones.
        init_from: folder of weights to begin with, relative to the checkout; "" begins from scratch.
    """

    features: Literal["log_mel", "log_stft"]
    pairs: Pairs
    model: VQVAEConfig
    fit: FitConfig
    reconstruction: Literal["l1", "mse"]
    losses: AuxiliaryWeights
    validation_triples: int
    crop_frames: int
    online_triples: int
    init_from: str

    def __post_init__(self) -> None:
        """Refuse an empty validation set and counts below nothing."""
        if self.validation_triples < 1:
            raise TimbreflowError("validation_triples must be 1 or more in params.yaml.")
        _require_counts("train_vqvae", self.crop_frames, self.online_triples)


@dataclass(frozen=True)
class GlowTraining:
    """Training of the conditioned Glow.

    Args:
        pairs: what the content clip is: another timbre's render of the target's notes (triples), the target itself
            (self_supervised, the 2021 paper), or each for half of the triples (mixed).
        model: its shape.
        fit: the loop.
        noise: standard deviation of the noise on the normalised target; above 0, or the likelihood diverges.
        l1: weight of the L1 of the transfer at temperature 0; 0 leaves it out.
        l1_every: steps from one such term to the next.
        losses: weights of the auxiliary terms.
        validation_triples: how many are scored at each validation.
        crop_frames: frames of content and target that a training step sees, 0 for whole clips.
        online_triples: training triples (with render_triples.complete_squares: squares) that loader processes render
            during training, the same as render_triples would store; 0 reads the stored ones.
        init_from: folder of weights to begin with, relative to the checkout; "" begins from scratch.
    """

    pairs: Pairs
    model: GlowConfig
    fit: FitConfig
    noise: float
    l1: float
    l1_every: int
    losses: AuxiliaryWeights
    validation_triples: int
    crop_frames: int
    online_triples: int
    init_from: str

    def __post_init__(self) -> None:
        """Refuse a likelihood without a bound and counts below nothing."""
        if self.noise <= 0:
            raise TimbreflowError(
                f"train_glow.noise is {self.noise}; set it above 0 (0.05 to 0.1), or the likelihood diverges."
            )
        if self.l1 < 0 or self.l1_every < 1 or self.validation_triples < 1:
            raise TimbreflowError("train_glow: l1 must be 0 or more, l1_every and validation_triples 1 or more.")
        _require_counts("train_glow", self.crop_frames, self.online_triples)


def _require_counts(section: str, frames: int, triples: int) -> None:
    if frames < 0:
        raise TimbreflowError(
            f"{section}: crop_frames is {frames}; set it above 0, or to 0 for whole clips, in params.yaml."
        )
    if triples < 0:
        raise TimbreflowError(
            f"{section}: online_triples is {triples}; set it to a number of triples, or to 0 for the stored ones, in "
            "params.yaml."
        )
