"""How the stored baselines of `systems.SYSTEMS` are built, when they are asked to compute their rows again."""

from collections.abc import Callable

from timbreflow.evaluation.baselines.musaicing import Musaicing
from timbreflow.evaluation.baselines.transcribe_and_render import TranscribeAndRender, from_folder
from timbreflow.evaluation.baselines.ulyanov_lebedev import UlyanovLebedev
from timbreflow.evaluation.system import System, SystemContext
from timbreflow.rendering.config import SoundFontSpec, SplitFractions
from timbreflow.stages.layout import Layout
from timbreflow.testsets.frozen import FRACTIONS, TRAINING_FONTS
from timbreflow.testsets.sources import Say, require_training_fonts

Builder = Callable[[SystemContext, Layout, Say], System]


def transcribe_and_render(context: SystemContext, layout: Layout, say: Say) -> TranscribeAndRender:
    """The row with all training fonts: with fewer its figures would move.

    Args:
        context: sample rate of the pipeline.
        layout: paths.
        say: gets one line a SoundFont that is fetched.

    Raises:
        TimbreflowError: a training font is missing and cannot be fetched, or one cannot be read.
    """
    require_training_fonts(layout, say=say)
    return from_folder(
        context,
        soundfonts=[SoundFontSpec(name=name, sha256="", role="train") for name in TRAINING_FONTS],
        fractions=SplitFractions(
            validation_pieces=0.0, test_pieces=0.0, test_effects=0.0, test_programs=FRACTIONS.test_programs
        ),
        folder=layout.soundfonts,
        cache=layout.scratch("patches"),
    )


BUILDERS: dict[str, Builder] = {
    "ulyanov_lebedev": lambda context, layout, say: UlyanovLebedev(context),
    "musaicing": lambda context, layout, say: Musaicing(context),
    "transcribe_and_render": transcribe_and_render,
}
"""Stored row to what builds it."""
