"""The rows of the table: everything that turns content and style into sound.

A new row is one more entry of `SYSTEMS`, and the loop
that evaluates them does not change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from timbreflow.audio.features import FeatureExtractor
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.system import Role, System, SystemContext
from timbreflow.files import stable_hash
from timbreflow.inference.refining import open_refiner, refiner_beside
from timbreflow.inference.synthesis import DecodeRequest, Synthesizer, to_sound
from timbreflow.models.bundle import load_bundle


@dataclass(frozen=True)
class SystemSpec:
    """How a row is called and built.

    Args:
        label: name in tables.
        description: one sentence for the report.
        kind: references copy; stored baselines take hours, so their rows are read from files in git; baselines and
            models compete; the ceiling knows the answer; external rows are another program's.
        build: makes the system; None for stored baselines, which `testsets/baselines.py` builds on request.
    """

    label: str
    description: str
    kind: Literal["reference", "stored", "baseline", "model", "ceiling", "external"]
    build: Callable[[SystemContext], System] | None = None

    @property
    def competes(self) -> bool:
        """Whether it makes sound without knowing the answer: the other rows are there to be compared with."""
        return self.kind not in ("reference", "ceiling")


class Copied:
    """Gives one of the inputs back.

    Args:
        role: which one.
    """

    def __init__(self, role: Role) -> None:
        self.copies: Role | None = role
        self.parameters = 0

    def transfer(self, content: Tensor, style: Tensor, target: Tensor, *, seed: int) -> Tensor:
        """The input of the role, unchanged."""
        return {"content": content, "style": style, "target": target}[self.copies or "content"]


class Oracle:
    """The target's own spectrogram through the same inversion: what a perfect model would score.

    Args:
        context: features and inversion.
    """

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

    Args:
        context: features and inversion.
        name: model whose weights are loaded, such as vqvae.

    Raises:
        TimbreflowError: the weights are missing, work at another sample rate, or do not transfer timbre.
    """

    copies: Role | None = None

    def __init__(self, context: SystemContext, name: str) -> None:
        folder = context.model_folder(name)
        bundle = load_bundle(folder)
        refiner = open_refiner(refiner_beside(folder), bundle) if context.refined else None
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
        features = self._synthesizer.features
        noise = torch.Generator(device=self._device).manual_seed(seed)
        return self._synthesizer(features(content), DecodeRequest(features(style), self._temperature, seed, noise))


def _model(name: str, label: str, description: str) -> dict[str, SystemSpec]:
    return {name: SystemSpec(label, description, "model", lambda context: ModelSystem(context, name))}


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
