"""Section of params.yaml that trains the vocoder."""

from dataclasses import dataclass

from timbreflow.errors import TimbreflowError
from timbreflow.models.vocoder import VocoderConfig
from timbreflow.training.fit_config import FitConfig


@dataclass(frozen=True)
class VocoderLosses:
    """Weights of the vocoder's loss terms; a term of weight 0 has no effect.

    Args:
        convergence: of spectral convergence, at three resolutions.
        magnitude: of the L1 of log magnitudes, at three resolutions.
        mel: of the L1 of the log-mels that the models see.
        adversarial: of the discriminator's verdict; 0 trains without one.
        feature_matching: of the L1 between what the discriminator sees in true and made sound, if there is one.
    """

    convergence: float
    magnitude: float
    mel: float
    adversarial: float
    feature_matching: float

    def __post_init__(self) -> None:
        """Refuse weights that would reward mistakes, and a loss that is 0."""
        for name, value in vars(self).items():
            if value < 0:
                raise TimbreflowError(f"train_vocoder.losses.{name} is {value}; set it to 0 or more in params.yaml.")
        if self.convergence + self.magnitude + self.mel == 0:
            raise TimbreflowError(
                "train_vocoder.losses: convergence, magnitude and mel are all 0; raise one of them in params.yaml."
            )


@dataclass(frozen=True)
class VocoderTraining:
    """Training of the vocoder on crops of all rendered clips.

    Args:
        model: its shape.
        fit: the loop.
        losses: weights of the terms.
        crop_frames: frames of features in a training example.
        noise: deviation of the noise on the normalised features that the vocoder is given in training; models make
            features that are never quite right, and a vocoder that trusts every digit passes their mistakes on.
        validation_crops: how many are scored at each validation.
        comparison_clips: whole validation clips that the vocoder is compared with Griffin-Lim on, at the end.
        init_from: folder of weights to begin with, relative to the checkout; "" begins from the mel scale.
    """

    model: VocoderConfig
    fit: FitConfig
    losses: VocoderLosses
    crop_frames: int
    noise: float
    validation_crops: int
    comparison_clips: int
    init_from: str

    def __post_init__(self) -> None:
        """Refuse empty sets, and double precision, which the losses' filters do not have."""
        if self.fit.precision == "float64":
            raise TimbreflowError("train_vocoder.fit.precision is float64; use float32 or bfloat16 in params.yaml.")
        for name in ("crop_frames", "validation_crops", "comparison_clips"):
            if getattr(self, name) < 1:
                raise TimbreflowError(
                    f"train_vocoder.{name} is {getattr(self, name)}; set it to 1 or more in params.yaml."
                )
        if self.noise < 0:
            raise TimbreflowError(f"train_vocoder.noise is {self.noise}; set it to 0 or more in params.yaml.")
