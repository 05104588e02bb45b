"""Settings of the trainings: the loop, the weights of the losses, and the sections of params.yaml."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from timbreflow.data.triples import Pairs
from timbreflow.errors import TimbreflowError
from timbreflow.models.glow.model import GlowConfig
from timbreflow.models.refiner import RefinerConfig
from timbreflow.models.timbre_metric import TripletConfig
from timbreflow.models.vocoder import VocoderConfig
from timbreflow.models.vqvae import VQVAEConfig
from timbreflow.schema import require_least


@dataclass(frozen=True)
class FitConfig:
    """Settings of the loop. The budget is in steps, never in minutes, so that a run can be repeated.

    Args:
        steps: optimizer steps.
        batch_size: examples a batch; a step sees batch_size * grad_accumulation of them.
        learning_rate: peak rate of AdamW, reached after warm-up.
        warmup_steps: steps of linear warm-up from 0.
        schedule: after warm-up, "cosine" falls to 0 at the last step, "constant" stays, and "trapezoid" stays for four
            fifths of all steps and then falls linearly to 0 (Zhai et al. 2022, section 3.5).
        weight_decay: of matrices and kernels; biases, gains and other vectors have none.
        grad_clip: largest norm of the whole gradient; 0 = do not clip.
        ema_decay: d of ema <- d ema + (1 - d) weights, lowered in the first steps to (1 + n) / (10 + n).
        precision: "auto" is bfloat16 where the device has instructions for it, else float32. "bfloat16" runs the
            forward pass under autocast; weights and optimizer stay float32. "float64" trains in double precision,
            codebooks aside: slow, for comparing trainings whose codes rounding would change.
        log_every: steps between two calls of the metric logger.
        validate_every: steps between two validations (the last step is always validated).
        checkpoint_every: steps between two checkpoints.
        patience: stop after so many validations without a better one; 0 = never.
        seed: of everything random in the loop.
        grad_accumulation: batches a step.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    schedule: Literal["cosine", "constant", "trapezoid"]
    weight_decay: float
    grad_clip: float
    ema_decay: float
    precision: Literal["auto", "float32", "bfloat16", "float64"]
    log_every: int
    validate_every: int
    checkpoint_every: int
    patience: int
    seed: int
    grad_accumulation: int

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        positive = ("steps", "batch_size", "log_every", "validate_every", "checkpoint_every", "grad_accumulation")
        require_least("fit", self, 1, *positive)
        require_least("fit", self, 0, "learning_rate", "warmup_steps", "weight_decay", "grad_clip", "patience")
        if not 0 <= self.ema_decay < 1:
            raise TimbreflowError(f"fit.ema_decay is {self.ema_decay}; set it to at least 0 and below 1.")


@dataclass(frozen=True)
class AuxiliaryWeights:
    """Weights of the shared terms; a term of weight 0 is not computed.

    Args:
        commitment: of the distance between the content encoder's output and its codes.
        roll: of the note head's binary cross-entropy.
        roll_pos_weight: weight of a sounding pitch in it, against 1 for a silent one (about 1 in 40 sounds).
        invariance: of `invariance_loss` between the content encoder's outputs for content and target, which play the
            same notes with different timbres. It drives timbre out of the content code.
        contrastive: of the InfoNCE of the style tokens.
        contrastive_temperature: of its cosine similarities.
    """

    commitment: float
    roll: float
    roll_pos_weight: float
    invariance: float
    contrastive: float
    contrastive_temperature: float

    def __post_init__(self) -> None:
        """Refuse weights that would reward mistakes."""
        require_least("losses", self, 0, "commitment", "roll", "invariance", "contrastive")
        if self.roll_pos_weight <= 0 or self.contrastive_temperature <= 0:
            raise TimbreflowError("losses.roll_pos_weight and losses.contrastive_temperature must be above 0.")


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
            raise TimbreflowError(
                f"train_timbre_metric.hard_negatives is {self.hard_negatives}; set it between 0 and 1."
            )
        require_least("train_timbre_metric", self, 1, "validation_triplets")
        require_least("train_timbre_metric", self, 0, "cache_mb")


@dataclass(frozen=True)
class TripleTraining:
    """What the trainings on triples share.

    Args:
        pairs: what the content clip is: another timbre's render of the target's notes (triples), the target itself
            (self_supervised, the 2021 paper), or each for half of the triples (mixed).
        fit: the loop.
        validation_triples: how many are scored at each validation.
        crop_frames: frames of content and target that a training step sees, 0 for whole clips.
        online_triples: training triples (with render_triples.complete_squares: squares) that loader processes render
            during training, the same as render_triples would store; 0 reads the stored ones.
        init_from: folder of weights to begin with, relative to the checkout; "" begins from scratch.
    """

    section: ClassVar[str]
    pairs: Pairs
    fit: FitConfig
    validation_triples: int
    crop_frames: int
    online_triples: int
    init_from: str

    def __post_init__(self) -> None:
        """Refuse an empty validation set and counts below 0."""
        require_least(self.section, self, 1, "validation_triples")
        require_least(self.section, self, 0, "crop_frames", "online_triples")

    @property
    def needs_notes(self) -> bool:
        """Whether the notes of the clips are learned from."""
        return True


@dataclass(frozen=True)
class CodeTraining(TripleTraining):
    """What the trainings of models with a content code share.

    Args:
        losses: weights of the auxiliary terms.
    """

    losses: AuxiliaryWeights

    @property
    def needs_notes(self) -> bool:
        """Whether the notes of the clips are learned from."""
        return self.losses.roll > 0


@dataclass(frozen=True)
class VQVAETraining(CodeTraining):
    """Training of one VQ-VAE.

    Args:
        features: "log_mel" reads data/mels; "log_stft" (the paper's 1025 bins) computes them from data/audio.
        model: its shape.
        reconstruction: "l1" or "mse" on normalised features.
    """

    section = "train_vqvae"
    features: Literal["log_mel", "log_stft"]
    model: VQVAEConfig
    reconstruction: Literal["l1", "mse"]


@dataclass(frozen=True)
class GlowTraining(CodeTraining):
    """Training of the conditioned Glow.

    Args:
        model: its shape.
        noise: standard deviation of the noise on the normalised target; above 0, or the likelihood diverges.
        l1: weight of the L1 of the transfer at temperature 0; 0 leaves it out.
        l1_every: steps from one such term to the next.
    """

    section = "train_glow"
    model: GlowConfig
    noise: float
    l1: float
    l1_every: int

    def __post_init__(self) -> None:
        """Refuse a likelihood without a bound."""
        super().__post_init__()
        if self.noise <= 0:
            raise TimbreflowError(
                f"train_glow.noise is {self.noise}; set it above 0 (0.05 to 0.1), or the likelihood diverges."
            )
        require_least(self.section, self, 1, "l1_every")
        require_least(self.section, self, 0, "l1")


@dataclass(frozen=True)
class RefinerTraining(TripleTraining):
    """Training of the refiner behind frozen transfer models.

    Args:
        models: names of the models, below data/models; a step takes the predictions of one, by turns.
        model: its shape.
        temperature: of the models that sample.
        true_steps: steps, from the first, that look up the content's true notes.
        true_share: share of the clips that have true notes after them; the others have those that the model
            predicts, as in use.
        note_steps: steps, from the first, that train the note reader alone, on content and target; after them it
            stays as it is.
    """

    section = "train_refiner"
    models: tuple[str, ...]
    model: RefinerConfig
    temperature: float
    true_steps: int
    true_share: float
    note_steps: int

    def __post_init__(self) -> None:
        """Refuse a training without models, shares outside 0..1, and steps of no reader."""
        super().__post_init__()
        if not self.models:
            raise TimbreflowError("train_refiner.models is empty; name vqvae, glow or both.")
        if not 0 <= self.true_share <= 1:
            raise TimbreflowError(f"train_refiner.true_share is {self.true_share}; set it between 0 and 1.")
        require_least(self.section, self, 0, "temperature", "true_steps", "note_steps")
        if self.note_steps and self.model.note_reader is None:
            raise TimbreflowError(
                f"train_refiner.note_steps is {self.note_steps}, but model.note_reader is null; set one of them."
            )


@dataclass(frozen=True)
class VocoderLosses:
    """Weights of the vocoder's loss terms; a term of weight 0 has no effect.

    Args:
        convergence: of spectral convergence, at three resolutions.
        magnitude: of the L1 of log magnitudes, at three resolutions.
        mel: of the L1 of the log-mels.
        adversarial: of the discriminator's score; 0 trains without one.
        feature_matching: of the L1 between the discriminator's activations for true and generated sound.
    """

    convergence: float
    magnitude: float
    mel: float
    adversarial: float
    feature_matching: float

    def __post_init__(self) -> None:
        """Refuse weights that would reward mistakes, and a loss that is 0."""
        require_least("train_vocoder.losses", self, 0, *vars(self))
        if self.convergence + self.magnitude + self.mel == 0:
            raise TimbreflowError("train_vocoder.losses: convergence, magnitude and mel are all 0; raise one of them.")


@dataclass(frozen=True)
class VocoderTraining:
    """Training of the vocoder on crops of all rendered clips.

    Args:
        model: its shape.
        fit: the loop.
        losses: weights of the terms.
        crop_frames: frames of features in a training example.
        noise: standard deviation of the noise on the normalised features in training, so that the vocoder tolerates
            the errors of predicted features.
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
            raise TimbreflowError("train_vocoder.fit.precision is float64; use auto, float32 or bfloat16.")
        require_least("train_vocoder", self, 1, "crop_frames", "validation_crops", "comparison_clips")
        require_least("train_vocoder", self, 0, "noise")
