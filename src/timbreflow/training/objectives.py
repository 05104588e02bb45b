"""What each model is trained for: one objective a model, its terms named as in the curves."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer
from timbreflow.data.triples import TripleBatch
from timbreflow.models.blocks import full_precision
from timbreflow.models.glow.model import Glow, GlowOutput
from timbreflow.models.lookup import THRESHOLD
from timbreflow.models.refiner import Refiner
from timbreflow.models.timbre_metric import TripletNetwork
from timbreflow.models.vqvae import VQVAE, VQVAEOutput
from timbreflow.parallel import draw, draw_like
from timbreflow.training.config import AuxiliaryWeights, VocoderLosses
from timbreflow.training.discriminator import VocoderWithDiscriminator
from timbreflow.training.losses import MultiResolutionSTFT, adversarial_terms, auxiliary_terms
from timbreflow.training.triplets import TripletBatch


class VQVAEObjective:
    """Reconstruction of the target, commitment, notes in the code, timbre in the tokens.

    `reconstruction` is "l1", or "mse" as in the 2021 paper, on normalised features.
    """

    criterion = "l1"

    def __init__(self, *, reconstruction: str, weights: AuxiliaryWeights) -> None:
        self.reconstruction = reconstruction
        self.weights = weights

    def __call__(self, model: VQVAE, batch: TripleBatch, *, step: int) -> dict[str, Tensor]:
        """Terms of one training batch."""
        del step
        return self._terms(model, batch, model(batch.content, batch.style))

    def validate(self, model: VQVAE, batch: TripleBatch) -> dict[str, Tensor]:
        """The same terms, and "l1" of the transfer whatever the model is trained on."""
        output = model(batch.content, batch.style)
        return {**self._terms(model, batch, output), "l1": F.l1_loss(output.prediction, batch.target)}

    def _terms(self, model: VQVAE, batch: TripleBatch, output: VQVAEOutput) -> dict[str, Tensor]:
        error = F.l1_loss if self.reconstruction == "l1" else F.mse_loss
        reconstruction = error(output.prediction.float(), batch.target)
        terms = auxiliary_terms(self.weights, model, batch, output)
        loss = reconstruction + terms.pop("auxiliary")
        return {"loss": loss, "reconstruction": reconstruction, **terms}


MAX_L1 = 100.0
"""Largest value of a sample in its L1 term, in standard deviations: where the inverse overflows, the gradient is 0."""


class GlowObjective:
    """Exact likelihood of the noisy target, the auxiliary terms, and now and then the L1 of a sample at T = 0.

    A rendered target is a function of notes and timbre, so its likelihood given them has no upper bound. Gaussian
    noise of deviation `noise` on the normalised target gives it one; likelihoods hold at that noise only.

    Args:
        noise: standard deviation, in deviations of the features.
        l1: weight of the L1 between the target and the transfer at temperature 0.
        l1_every: steps from one such term to the next; the inverse pass costs about as much as the forward one.
        weights: of the auxiliary terms.
    """

    criterion = "glow/bits_per_dim"

    def __init__(self, *, noise: float, l1: float, l1_every: int, weights: AuxiliaryWeights) -> None:
        self.noise = noise
        self.l1 = l1
        self.l1_every = l1_every
        self.weights = weights

    def initialize(self, model: Glow, batch: TripleBatch) -> None:
        """Data-dependent initialisation of the actnorms from one real batch, before the first step."""
        model.train()
        model.initialize(self._noisy(batch.target), batch.content, batch.style)

    def __call__(self, model: Glow, batch: TripleBatch, *, step: int) -> dict[str, Tensor]:
        """Terms of one training batch; "l1" only at every l1_every-th step."""
        output = model(self._noisy(batch.target), batch.content, batch.style)
        terms = self._terms(model, batch, output)
        if self.l1 and step % self.l1_every == 0:
            sample = model.sample(output.conditions, temperature=0.0)
            terms["l1"] = F.l1_loss(sample.float().clamp(-MAX_L1, MAX_L1), batch.target)
            terms["loss"] = terms["loss"] + self.l1 * terms["l1"]
        return terms

    def validate(self, model: Glow, batch: TripleBatch) -> dict[str, Tensor]:
        """The same terms, "l1" of the transfer at T = 0, and the gain by the right style.

        "glow/style_gain": bits per dimension of the target with another clip's style, minus those with its own; 0 for a
        flow that ignores the style.
        """
        noisy = self._noisy(batch.target)
        output = model(noisy, batch.content, batch.style)
        terms = self._terms(model, batch, output)
        terms["l1"] = F.l1_loss(model.sample(output.conditions, temperature=0.0), batch.target)
        wrong = model(noisy, batch.content, batch.style.roll(1, dims=0))
        terms["glow/style_gain"] = wrong.likelihood.bits_per_dim.mean() - terms["glow/bits_per_dim"]
        return terms

    def _noisy(self, target: Tensor) -> Tensor:
        # Silence is not masked: the noise bounds its likelihood too, and a flow has to learn how notes end.
        return target + self.noise * draw_like(torch.randn_like, target)

    def _terms(self, model: Glow, batch: TripleBatch, output: GlowOutput) -> dict[str, Tensor]:
        likelihood = output.likelihood.bits_per_dim.mean()
        terms = auxiliary_terms(self.weights, model, batch, output)
        return {"loss": likelihood + terms.pop("auxiliary"), "glow/bits_per_dim": likelihood, **terms}


class RefinerObjective:
    """L1 of the refined prediction of frozen transfer models, which take turns from step to step.

    Args:
        models: by name, in evaluation mode, each with the statistics that it takes features in.
        normalizer: statistics of the batches.
        temperature: of the models that sample.
        true_steps: steps that look up the content's true notes.
        true_share: share of the clips that have true notes after them; the others have predicted ones.
        note_steps: steps, from the first, that train the note reader alone, by cross-entropy; it stays as it is after
            them.
    """

    criterion = "l1"

    def __init__(
        self,
        models: Mapping[str, tuple[VQVAE | Glow, Normalizer]],
        normalizer: Normalizer,
        *,
        temperature: float,
        true_steps: int,
        true_share: float,
        note_steps: int,
    ) -> None:
        self.models = models
        self.normalizer = normalizer
        self.temperature = temperature
        self.true_steps = true_steps
        self.true_share = true_share
        self.note_steps = note_steps

    def __call__(self, model: Refiner, batch: TripleBatch, *, step: int) -> dict[str, Tensor]:
        """Terms of one training batch, of the model whose turn it is."""
        name = list(self.models)[step % len(self.models)]
        if step < self.note_steps:
            return {"loss": self._note_loss(model, batch, name)}
        share = 1.0 if step < self.true_steps else self.true_share
        true = draw(len(batch), lambda n: torch.rand(n, device=batch.target.device)) < share
        refined, _, _ = self._refined(model, batch, name, true)
        return {"loss": F.l1_loss(refined, batch.target)}

    def validate(self, model: Refiner, batch: TripleBatch) -> dict[str, Tensor]:
        """With predicted notes alone: "l1" over all models, and for each model refined and unrefined.

        "note_f1" is the F-score of pitches and frames that the look-up takes for sounding.
        """
        terms = {}
        for name in self.models:
            none = torch.zeros_like(batch.timbre, dtype=torch.bool)
            refined, predicted, roll = self._refined(model, batch, name, none)
            terms[f"l1/{name}"] = F.l1_loss(refined, batch.target)
            terms[f"unrefined/{name}"] = F.l1_loss(predicted, batch.target)
            heard = roll > THRESHOLD
            right = (heard & batch.content_roll).sum()
            terms[f"note_f1/{name}"] = 2 * right / (heard.sum() + batch.content_roll.sum()).clamp_min(1)
        l1 = torch.stack([terms[f"l1/{name}"] for name in self.models]).mean()
        return {"loss": l1, "l1": l1, **terms}

    def _note_loss(self, model: Refiner, batch: TripleBatch, name: str) -> Tensor:
        """Cross-entropy of the reader's notes in content and target, which play the same with two timbres."""
        base, normalizer = self.models[name]
        raw = self.normalizer.denormalize(torch.cat([batch.content, batch.target]))
        with torch.no_grad():
            roll = base.content_path.pianoroll(normalizer.normalize(raw))
        true = batch.content_roll.repeat(2, 1, 1).to(roll.dtype)
        return F.binary_cross_entropy_with_logits(model.note_logits(raw, roll), true)

    @torch.no_grad()
    def _rolls(self, model: Refiner, name: str, *clips: Tensor) -> list[Tensor]:
        """Notes in raw log-mels, as they are heard in use."""
        base, normalizer = self.models[name]
        return [model.read(clip, base.content_path.pianoroll(normalizer.normalize(clip))) for clip in clips]

    def _refined(self, model: Refiner, batch: TripleBatch, name: str, true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions with and without the refiner, in the units of the batch, and the content's roll.

        `true` [B] has the true notes.
        """
        base, normalizer = self.models[name]
        raw_content, raw_style = (self.normalizer.denormalize(x) for x in (batch.content, batch.style))
        with torch.no_grad():
            content, style = normalizer.normalize(raw_content), normalizer.normalize(raw_style)
            made = full_precision(base.transfer(content, style, temperature=self.temperature))
            raw = normalizer.denormalize(made)
        roll, style_roll = self._rolls(model, name, raw_content, raw_style)
        roll = torch.where(true[:, None, None], batch.content_roll.to(roll.dtype), roll)
        change = model(raw, raw_content, raw_style, roll, style_roll)
        return self.normalizer.normalize(raw + change), self.normalizer.normalize(raw), roll


class TripletObjective:
    """Hinge on cosine similarities: the same timbre must be nearer than another one, by a margin.

    Cífka et al. 2021, section 4.2, margin 0.1.
    """

    criterion = "loss"

    def __init__(self, *, margin: float) -> None:
        self.margin = margin

    def __call__(self, model: TripletNetwork, batch: TripletBatch, *, step: int) -> dict[str, Tensor]:
        """Terms of one training batch."""
        del step
        return self.validate(model, batch)

    def validate(self, model: TripletNetwork, batch: TripletBatch) -> dict[str, Tensor]:
        """Hinge loss, and the share of triplets in the right order."""
        # One pass over all three, so that batch normalisation sees them together.
        embedded = model(torch.cat([batch.anchor, batch.positive, batch.negative])).float()
        anchor, positive, negative = embedded.chunk(3)
        near = F.cosine_similarity(anchor, positive)
        far = F.cosine_similarity(anchor, negative)
        return {
            "loss": F.relu(self.margin - near + far).mean(),
            "triplet/accuracy": (near > far).float().mean(),
        }


class VocoderObjective(nn.Module):
    """Spectral losses between a crop of sound and the vocoder's sound for its features.

    A module only so that its filters follow the batch to its device; nothing in it is learned. A
    `VocoderWithDiscriminator` has adversarial losses as well; the spectral losses alone pick the best step. `noise` is
    the standard deviation of the noise on the normalised features in training.
    """

    criterion = "loss"

    def __init__(self, features: FeatureConfig, normalizer: Normalizer, *, losses: VocoderLosses, noise: float) -> None:
        super().__init__()
        self.extract = FeatureExtractor(features)
        self.resolutions = MultiResolutionSTFT()
        self.normalizer = normalizer
        self.losses = losses
        self.noise = noise

    def __call__(self, model: nn.Module, batch: Tensor, *, step: int) -> dict[str, Tensor]:
        """Terms of one training batch: sound [B, N]."""
        del step
        made, terms = self._made(model, batch, noise=self.noise)
        if isinstance(model, VocoderWithDiscriminator):
            with torch.autocast(batch.device.type, enabled=False):
                terms.update(adversarial_terms(model.discriminator, made, batch))
                vocoder = self.losses.adversarial * terms["gan/vocoder"]
                matching = self.losses.feature_matching * terms["gan/feature_matching"]
                terms["loss"] = terms["loss"] + terms["gan/discriminator"] + vocoder + matching
        return terms

    def validate(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        """The spectral terms, from features without noise."""
        return self._made(model, batch, noise=0.0)[1]

    def _made(self, model: nn.Module, sound: Tensor, *, noise: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The vocoder's sound [B, N], and its spectral terms."""
        self.to(sound.device)
        # The filterbank is a matrix product, which autocast would compute in bfloat16.
        with torch.no_grad(), torch.autocast(sound.device.type, enabled=False):
            mel = self.extract(sound)
            features = self.normalizer.normalize(mel)
            if noise:
                features = features + noise * torch.randn_like(features)
        made: Tensor = model(features)
        with torch.autocast(sound.device.type, enabled=False):
            convergence, magnitude = self.resolutions(made, sound)
            mel_error = F.l1_loss(self.extract(made), mel)
            terms = {"stft/convergence": convergence, "stft/magnitude": magnitude, "mel/l1": mel_error}
            weights = (self.losses.convergence, self.losses.magnitude, self.losses.mel)
            weighted = [weight * term for weight, term in zip(weights, terms.values(), strict=True)]
        return made, {"loss": torch.stack(weighted).sum(), **terms}
