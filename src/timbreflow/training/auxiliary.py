"""Loss terms that the VQ-VAE and the Glow share: notes in the content code, timbre in the style tokens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.models.content import ContentCode
from timbreflow.parallel import gather


@dataclass(frozen=True)
class AuxiliaryWeights:
    """Weights of the shared terms; a term of weight 0 is not computed.

    Args:
        commitment: of the distance between the content encoder's output and its codes.
        roll: of the note head's binary cross-entropy.
        roll_pos_weight: what a sounding pitch counts in it, against 1 for a silent one (about 1 in 40 sounds).
        invariance: of `invariance_loss` of what the content encoder makes of the content and of the target, which play
            the same notes with different timbres. Their code has no other reason to forget the timbre.
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
        for name in ("commitment", "roll", "invariance", "contrastive"):
            if getattr(self, name) < 0:
                raise TimbreflowError(f"losses.{name} is {getattr(self, name)}; set it to 0 or more in params.yaml.")
        if self.roll_pos_weight <= 0 or self.contrastive_temperature <= 0:
            raise TimbreflowError("losses.roll_pos_weight and losses.contrastive_temperature must be above 0.")


def auxiliary_terms(
    weights: AuxiliaryWeights,
    content: ContentCode,
    *,
    roll: Tensor,
    target_encoded: Tensor | None,
    style_tokens: Tensor,
    target_tokens: Tensor | None,
    timbre: Tensor,
) -> dict[str, Tensor]:
    """The shared terms, unweighted, and "auxiliary": their weighted sum.

    Args:
        weights: what each counts.
        content: codes of the content clips; their perplexity is drawn as a curve only.
        roll: [B, 128, T] bool, the true notes.
        target_encoded: [B, D, t] of the targets, before quantisation. None leaves the invariance term out.
        style_tokens: [B, K, D] of the style clips.
        target_tokens: [B, K, D] of the targets: the same timbres, other notes. None leaves the contrastive term out.
        timbre: [B] int64.
    """
    terms = {"vq/commitment_loss": content.commitment_loss, "vq/perplexity": content.perplexity.detach()}
    total = weights.commitment * content.commitment_loss
    if content.pianoroll_logits is not None and weights.roll:
        terms["roll/bce"] = roll_loss(content.pianoroll_logits, roll, pos_weight=weights.roll_pos_weight)
        total = total + weights.roll * terms["roll/bce"]
    if target_encoded is not None and weights.invariance:
        terms["content/invariance"] = invariance_loss(content.encoded, target_encoded)
        total = total + weights.invariance * terms["content/invariance"]
    if target_tokens is not None and weights.contrastive:
        terms["style/contrastive"] = contrastive_loss(
            style_tokens, target_tokens, timbre, temperature=weights.contrastive_temperature
        )
        total = total + weights.contrastive * terms["style/contrastive"]
    return {**terms, "auxiliary": total}


def invariance_loss(first: Tensor, second: Tensor) -> Tensor:
    """How much of what differs between clips differs between two timbres of the same notes: [B, D, t] twice -> scalar.

    Compared are the mean and the deviation over time of each channel, which is where a timbre shows and single notes do
    not. The mean square within pairs is divided by that between clips (an intraclass ratio), so that making all clips
    alike, to which a plain distance leads, gains nothing.

    Returns:
        0 where both timbres give the same statistics, about 1 where the notes say nothing about them.
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

    All tokens of a clip are joined into one vector, so that no token is free of the timbre. Other clips of the same
    timbre are neither right nor wrong answers: they are left out.

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
        twins = (timbre[:, None] == timbre[None]) & ~torch.eye(len(timbre), dtype=torch.bool, device=timbre.device)
        logits = logits.masked_fill(twins, -torch.inf)
        right = torch.arange(len(timbre), device=timbre.device)
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
