"""The rows of the table: everything that turns content and style into sound.

A new row is one more entry of `SYSTEMS`, and the loop that evaluates them does not change.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from timbreflow.audio.features import FeatureExtractor
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.system import Role, System, SystemContext
from timbreflow.files import stable_hash
from timbreflow.inference.expression import Dynamics, rise_seconds
from timbreflow.inference.refining import open_refiner, refiner_beside
from timbreflow.inference.synthesis import DecodeRequest, Synthesizer, to_sound
from timbreflow.models.base import Noise
from timbreflow.models.blocks import full_precision
from timbreflow.models.bundle import load_bundle
from timbreflow.models.glow.model import Glow
from timbreflow.notes.tables import Notes

_SURE = 20.0
"""Log-odds of a true note."""


@dataclass(frozen=True)
class SystemSpec:
    """How a row is called and built.

    Args:
        label: name in tables.
        description: one sentence for the report.
        kind: references copy; stored baselines take hours, so their rows are read from files in git; baselines and
            models compete; diagnostics are a model's part, or a model that is told what it has to find out; the ceiling
            knows the answer; external rows are another program's.
        build: makes the system; None for stored baselines, which `testsets/baselines.py` builds on request.
        weights: name of the weights that it needs; empty for none.
    """

    label: str
    description: str
    kind: Literal["reference", "stored", "baseline", "model", "diagnostic", "ceiling", "external"]
    build: Callable[[SystemContext], System] | None = None
    weights: str = ""

    @property
    def competes(self) -> bool:
        """Whether it makes sound without knowing the answer: the other rows are there to be compared with."""
        return self.kind not in ("reference", "diagnostic", "ceiling")


class Copied:
    """Gives one of the inputs back."""

    def __init__(self, role: Role) -> None:
        self.copies: Role | None = role
        self.parameters = 0

    def transfer(self, content: Tensor, style: Tensor, target: Tensor, *, seed: int) -> Tensor:
        """The input of the role, unchanged."""
        return {"content": content, "style": style, "target": target}[self.copies or "content"]


class Oracle:
    """The target's own spectrogram through the same inversion: what a perfect model would score."""

    copies: Role | None = None
    parameters = 0

    def __init__(self, context: SystemContext) -> None:
        self._extract = FeatureExtractor(context.features).to(context.device)
        self._invert = context.inverter(context.features)

    @torch.inference_mode()
    def transfer(self, content: Tensor, style: Tensor, target: Tensor, *, seed: int) -> Tensor:
        """The target [B, N], analysed and resynthesised."""
        return to_sound(self._extract(target), self._extract.config, self._invert, seed=seed)


class ModelSystem:
    """A trained transfer model, from sound to sound as `timbreflow transfer` does it.

    `part` makes what transfers of the loaded model `name`; None takes the model itself.

    Raises:
        TimbreflowError: the weights are missing, work at another sample rate, or do not transfer timbre.
    """

    copies: Role | None = None

    def __init__(self, context: SystemContext, name: str, part: Callable[[nn.Module], nn.Module] | None = None) -> None:
        folder = context.model_folder(name)
        bundle = load_bundle(folder)
        refiner = open_refiner(refiner_beside(folder), bundle) if context.refined else None
        if part is not None:
            bundle = replace(bundle, model=part(bundle.model))
        if bundle.features.sample_rate != context.features.sample_rate:
            raise TimbreflowError(
                f"the model {name} works at {bundle.features.sample_rate} Hz and the test clips are at "
                f"{context.features.sample_rate} Hz; train it again with the present audio section."
            )
        self._synthesizer = Synthesizer(
            bundle,
            context.inverter(bundle.features),
            device=context.device,
            refiner=refiner,
            variance_scale=context.variance_scale,
        )
        self._temperature = context.temperature
        self._device = context.device
        learned = [bundle.model, *([] if refiner is None else [refiner])]
        self.parameters = sum(parameter.numel() for part in learned for parameter in part.parameters())

    def transfer(self, content: Tensor, style: Tensor, target: Tensor, *, seed: int) -> Tensor:
        """The content [B, N] with the style's timbre; the target is not looked at."""
        rate = self._synthesizer.config.sample_rate
        noise = torch.Generator(device=self._device).manual_seed(seed)
        rises = tuple(rise_seconds(sound, rate) for sound in style.cpu().numpy())
        request = DecodeRequest(self._synthesizer.features(style), self._temperature, seed, noise, rises=rises)
        sounds = content.cpu().numpy()
        dynamics = [Dynamics.of(sound, rate) for sound in sounds]
        level = [next(own.taken_out([sound], rate)) for own, sound in zip(dynamics, sounds, strict=True)]
        made = self._synthesizer.transfer(level, request)
        return torch.from_numpy(
            np.stack([next(own.put_back([sound], rate)) for own, sound in zip(dynamics, made, strict=True)])
        )


class DecoderAlone(nn.Module):
    """The prediction that a Glow subtracts before its flow, as a `TransferModel`: what is left without the flow.

    A refiner hears the Glow's notes.

    Raises:
        TimbreflowError: the model is no Glow with a decoder.
    """

    def __init__(self, glow: nn.Module) -> None:
        super().__init__()
        if not isinstance(glow, Glow) or glow.decoder is None:
            raise TimbreflowError(
                "The model glow has no decoder without its flow; train one with decoder_width above 0."
            )
        self.glow, self.content_path = glow, glow.content_path

    def transfer(self, content: Tensor, style: Tensor, *, temperature: float = 0.0, generator: Noise = None) -> Tensor:
        """See `TransferModel.transfer`; deterministic."""
        code, tokens = self.content_path(content).code, self.glow.style_encoder(style)
        return full_precision(cast(nn.Module, self.glow.decoder)(code, tokens, content.shape[-1]))


class _GivenRoll(nn.Module):
    """Stands in for a piano-roll head: the log-odds of the notes of one clip, which are set before each pass."""

    logits: Tensor

    def forward(self, code: Tensor, frames: int) -> Tensor:
        """[1, D, t] -> [1, 128, frames]; a clip that was resampled to plain tuning is a little longer or shorter."""
        return functional.interpolate(self.logits, size=frames)


class TrueRoll(ModelSystem):
    """A model that is told the true notes in place of those that it predicts: how much its note head costs.

    Args:
        context: features and inversion.
        name: of the model.

    Raises:
        TimbreflowError: as `ModelSystem`, and where no decoder of the model reads predicted notes.
    """

    asks = ("notes",)

    def __init__(self, context: SystemContext, name: str) -> None:
        super().__init__(context, name)
        path = self._synthesizer.model.content_path  # type: ignore[attr-defined]
        if path.pianoroll_encoder is None:
            raise TimbreflowError(f"The model {name} reads no piano roll; train one with pianoroll_channels above 0.")
        own = copy.deepcopy(path)
        self._head = path.pianoroll_head = _GivenRoll()
        if (refiner := self._synthesizer.refiner) is not None:
            # The notes that are given are the content's; those of the style, its last input, are still found.
            normalize = self._synthesizer.normalizer.normalize

            def hear(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                told = self._head.logits.sigmoid()
                told = functional.interpolate(told, size=given[1].shape[-1])
                return *given[:3], told, refiner.read(given[2], own.pianoroll(normalize(given[2])))

            refiner.register_forward_pre_hook(hear)

    def transfer(
        self, content: Tensor, style: Tensor, target: Tensor, *, seed: int, notes: Sequence[Notes] = ()
    ) -> Tensor:
        """The content [B, N] with the style's timbre, its notes given."""
        config = self._synthesizer.config
        frames, seconds = content.shape[-1] // config.hop_length, config.hop_length / config.sample_rate
        made = []
        for index, own in enumerate(notes):
            roll = torch.from_numpy(own.piano_roll(frames, seconds)).to(self._device)
            self._head.logits = (2.0 * roll[None] - 1.0) * _SURE
            clip = slice(index, index + 1)
            made.append(super().transfer(content[clip], style[clip], target[clip], seed=seed))
        return torch.cat(made)


def _model(name: str, label: str, description: str) -> dict[str, SystemSpec]:
    return {name: SystemSpec(label, description, "model", lambda context: ModelSystem(context, name), name)}


SYSTEMS: dict[str, SystemSpec] = {
    "content_copied": SystemSpec(
        "content copied",
        "The content as it came: all notes, none of the timbre.",
        "reference",
        lambda context: Copied("content"),
    ),
    "style_copied": SystemSpec(
        "style copied",
        "The style as it came: all of the timbre, none of the notes.",
        "reference",
        lambda context: Copied("style"),
    ),
    "ulyanov_lebedev": SystemSpec(
        "Ulyanov-Lebedev",
        "The content's spectrogram, changed until statistics of random features are the style's.",
        "stored",
    ),
    "musaicing": SystemSpec(
        "musaicing", "The content put together from frames of the style (Driedger et al. 2015).", "stored"
    ),
    "transcribe_and_render": SystemSpec(
        "transcribe and re-render",
        "Notes transcribed from the content, played by the training instrument nearest to the style.",
        "stored",
    ),
    **_model("vqvae-2021", "VQ-VAE, 2021 recipe", "Trained on recordings of one timbre against themselves."),
    **_model("vqvae", "VQ-VAE", "Trained on true triples."),
    **_model("glow", "Glow", "Normalizing flow conditioned on content and style, trained on true triples."),
    "glow_decoder": SystemSpec(
        "Glow's decoder, without flow",
        "What the Glow predicts before its flow.",
        "diagnostic",
        lambda context: ModelSystem(context, "glow", DecoderAlone),
        "glow",
    ),
    "vqvae_true_roll": SystemSpec(
        "VQ-VAE, true roll given",
        "The VQ-VAE with the true notes in place of those that it finds in the content.",
        "diagnostic",
        lambda context: TrueRoll(context, "vqvae"),
        "vqvae",
    ),
    "oracle": SystemSpec(
        "oracle", "The target's own spectrogram through the same inversion: the ceiling.", "ceiling", Oracle
    ),
}
"""Every row of every table, in its order."""


def spec_of(name: str) -> SystemSpec:
    """How a row is called, also one that is another program's."""
    return SYSTEMS.get(name) or SystemSpec(name, "Outputs of another program.", "external")


COMPUTED = tuple(name for name, spec in SYSTEMS.items() if spec.build)
"""Rows that are computed with every table."""


def build_systems(names: Sequence[str], context: SystemContext) -> dict[str, System]:
    """Build the computed rows of that name, in the order of `SYSTEMS`.

    Raises:
        TimbreflowError: a name is unknown, or the weights of a model cannot be loaded.
    """
    unknown = sorted(set(names) - set(COMPUTED))
    if unknown:
        raise TimbreflowError(
            f"{unknown[0]} is no system that is computed with every table; choose from {', '.join(COMPUTED)}."
        )
    return {name: spec.build(context) for name, spec in SYSTEMS.items() if name in names and spec.build}


def batch_seed(seed: int, split: str, batch: int) -> int:
    """Seed of one batch of a set, the same for every system."""
    return stable_hash("evaluate", seed, split, batch) % 2**31
