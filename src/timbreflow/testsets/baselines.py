"""How the stored baselines of `systems.SYSTEMS` are built, when they are asked to compute their rows again."""

from collections.abc import Callable

from timbreflow.evaluation.baselines.musaicing import Musaicing
from timbreflow.evaluation.baselines.patches import training_presets
from timbreflow.evaluation.baselines.transcribe_and_render import TranscribeAndRender
from timbreflow.evaluation.baselines.ulyanov_lebedev import UlyanovLebedev
from timbreflow.evaluation.system import System, SystemContext
from timbreflow.rendering.config import SoundFontSpec
from timbreflow.stages.layout import Layout
from timbreflow.testsets.frozen import FRACTIONS, TRAINING_FONTS
from timbreflow.testsets.sources import Say, require_training_fonts

Builder = Callable[[SystemContext, Layout, Say], System]


def transcribe_and_render(context: SystemContext, layout: Layout, say: Say) -> TranscribeAndRender:
    """The row with all training fonts: with fewer its figures would move.

    Raises:
        TimbreflowError: a training font is missing and cannot be fetched, or one cannot be read.
    """
    paths = require_training_fonts(layout, say=say)
    specs = [SoundFontSpec(name=name, sha256="", role="train") for name in TRAINING_FONTS]
    presets = training_presets(paths, specs, FRACTIONS)
    return TranscribeAndRender(context, paths=paths, presets=presets, cache=layout.scratch("patches"))


BUILDERS: dict[str, Builder] = {
    "ulyanov_lebedev": lambda context, layout, say: UlyanovLebedev(context),
    "musaicing": lambda context, layout, say: Musaicing(context),
    "transcribe_and_render": transcribe_and_render,
}
"""Stored row to what builds it."""
