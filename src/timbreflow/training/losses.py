"""Loss terms: notes in the content code, timbre in the style tokens, spectra of the vocoder, adversarial terms."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from timbreflow.data.triples import TripleBatch
from timbreflow.models.glow.model import Glow, GlowOutput
from timbreflow.models.vqvae import VQVAE, VQVAEOutput
from timbreflow.parallel import gather
from timbreflow.training.config import AuxiliaryWeights

WINDOWS = (512, 1024, 2048)
"""Window lengths of the spectral losses, in samples; hops are a quarter of each."""
FLOOR = 5e-6
"""Added to a magnitude before its logarithm, relative to the sum of the window: 80 dB below a sine of amplitude 0.1,
which is about the peak of a clip at -23 dBFS RMS."""
SMALLEST = 1e-8


def auxiliary_terms(
    weights: AuxiliaryWeights, model: VQVAE | Glow, batch: TripleBatch, output: VQVAEOutput | GlowOutput
) -> dict[str, Tensor]:
    """The terms that both models share, unweighted, and "auxiliary": their weighted sum.

    Args:
        weights: what each counts; the encoders see the target only for terms that count.
        model: whose encoders see the target: its notes are the content's, its timbre is the style's.
        batch: clips, notes and timbres.
        output: of the model for that batch. The perplexity of its code is drawn as a curve only.
    """
    content = output.content
    terms = {"vq/commitment_loss": content.commitment_loss, "vq/perplexity": content.perplexity.detach()}
    total = weights.commitment * content.commitment_loss
    if content.pianoroll_logits is not None and weights.roll:
        terms["roll/bce"] = roll_loss(content.pianoroll_logits, batch.content_roll, pos_weight=weights.roll_pos_weight)
        total = total + weights.roll * terms["roll/bce"]
    if weights.invariance:
        terms["content/invariance"] = invariance_loss(content.encoded, model.content_path.encoder(batch.target))
        total = total + weights.invariance * terms["content/invariance"]
    if weights.contrastive:
        terms["style/contrastive"] = contrastive_loss(
            output.style_tokens,
            model.style_encoder(batch.target),
            batch.timbre,
            temperature=weights.contrastive_temperature,
        )
        total = total + weights.contrastive * terms["style/contrastive"]
    return {**terms, "auxiliary": total}


def invariance_loss(first: Tensor, second: Tensor) -> Tensor:
    """Variance within pairs of the same notes in two timbres, over that between clips: [B, D, t] twice -> scalar.

    Compared are the mean and the standard deviation over time of each channel, which depend on timbre more than on
    single notes. The ratio (an intraclass ratio) cannot be lowered by making all clips alike, as a plain distance can.

    Returns:
        0 where both timbres give the same statistics, about 1 where the statistics do not depend on the notes.
    """
    with torch.autocast(first.device.type, enabled=False):
        pairs = torch.stack([gather(_statistics_over_time(clips.float())) for clips in (first, second)])
        within = (pairs[0] - pairs[1]).square().mean(0) / 2
        between = pairs.flatten(0, 1).var(0, correction=0)
        return (within / (between + 1e-4)).mean()


def _statistics_over_time(x: Tensor) -> Tensor:
    # The square root of a variance of 0 has no gradient.
    return torch.cat([x.mean(-1), (x.var(-1, correction=0) + 1e-4).sqrt()], dim=1)


def roll_loss(logits: Tensor, roll: Tensor, *, pos_weight: float) -> Tensor:
    """Binary cross-entropy per pitch and frame: logits [B, 128, T], roll [B, 128, T] bool -> scalar."""
    return F.binary_cross_entropy_with_logits(
        logits.float(), roll.float(), pos_weight=torch.tensor(pos_weight, device=logits.device)
    )


def contrastive_loss(first: Tensor, second: Tensor, timbre: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018) both ways: clip i of `first` must find clip i of `second` among the batch.

    All tokens of a clip are joined into one vector, so that every token must hold timbre. Other clips of the same
    timbre are left out: they are neither positives nor negatives.

    Args:
        first: [B, K, D] tokens.
        second: [B, K, D] tokens of the same timbres playing other notes.
        timbre: [B] int64.
        temperature: of the cosine similarities.

    Returns:
        Scalar; 0 for a batch of one timbre, log(B) where all clips look alike.
    """
    with torch.autocast(first.device.type, enabled=False):
        a = gather(F.normalize(first.float().flatten(1), dim=-1))
        b = gather(F.normalize(second.float().flatten(1), dim=-1))
        timbre = gather(timbre)
        logits = a @ b.T / temperature
        same = (timbre[:, None] == timbre[None]) & ~torch.eye(len(timbre), dtype=torch.bool, device=timbre.device)
        logits = logits.masked_fill(same, -torch.inf)
        right = torch.arange(len(timbre), device=timbre.device)
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


class MultiResolutionSTFT(nn.Module):
    """Spectral convergence and L1 of log magnitudes, averaged over resolutions.

    Yamamoto, Song, Kim, *Parallel WaveGAN*, 2020. Convergence is taken over the batch, not clip by clip, so that a
    silent crop causes no division by 0. Window lengths are in samples.
    """

    def __init__(self, windows: tuple[int, ...] = WINDOWS) -> None:
        super().__init__()
        for length in windows:
            self.register_buffer(f"window_{length}", torch.hann_window(length), persistent=False)

    def forward(self, made: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Sounds [B, N] float32 -> (convergence, magnitude), scalars; 0 for equal sounds."""
        convergence, magnitude = [], []
        for window in self.buffers():
            a, b = stft_magnitude(made, window), stft_magnitude(true, window)
            convergence.append((a - b).norm() / b.norm().clamp_min(SMALLEST))
            floor = FLOOR * window.sum()
            magnitude.append(F.l1_loss((a + floor).log(), (b + floor).log()))
        return torch.stack(convergence).mean(), torch.stack(magnitude).mean()


def stft_magnitude(sound: Tensor, window: Tensor) -> Tensor:
    """[B, N] -> [B, bins, frames]; padded with zeros at both ends, so any length will do."""
    length = len(window)
    spectrum = torch.stft(
        sound, length, length // 4, window=window, center=True, pad_mode="constant", return_complex=True
    )
    return spectrum.abs()


def adversarial_terms(discriminator: nn.Module, made: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Hinge losses of both sides, whose sum may be minimised by one optimizer.

    The generated sound is a constant to the discriminator's loss, and the discriminator's weights are constants to the
    vocoder's losses, so neither changes the other's weights. Sounds are [B, N].
    """
    real_scores, real_activations = discriminator(true)
    fake_scores, _ = discriminator(made.detach())
    frozen = {name: tensor.detach() for name, tensor in discriminator.state_dict(keep_vars=True).items()}
    vocoder_scores, vocoder_activations = functional_call(discriminator, frozen, (made,))
    hinges = [
        F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in zip(real_scores, fake_scores, strict=True)
    ]
    matches = [F.l1_loss(fake, real.detach()) for fake, real in zip(vocoder_activations, real_activations, strict=True)]
    return {
        "gan/discriminator": torch.stack(hinges).mean(),
        "gan/vocoder": -torch.stack([score.mean() for score in vocoder_scores]).mean(),
        "gan/feature_matching": torch.stack(matches).mean(),
    }
