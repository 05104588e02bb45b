"""The baselines as rows of the table, to stand among `systems.SYSTEMS`."""

from pathlib import Path

from timbreflow.evaluation.baselines.musaicing import Musaicing
from timbreflow.evaluation.baselines.transcribe_and_render import TranscribeAndRender, from_folder
from timbreflow.evaluation.baselines.ulyanov_lebedev import UlyanovLebedev
from timbreflow.evaluation.systems import SystemContext, SystemSpec
from timbreflow.rendering.config import SoundFontSpec, SplitFractions
from timbreflow.testsets.frozen import FRACTIONS, TRAINING_FONTS


def transcribe_and_render(
    context: SystemContext, *, soundfonts: Path = Path("data/soundfonts"), cache: Path = Path(".scratch/patches")
) -> TranscribeAndRender:
    """The row with the training fonts that are there.

    Args:
        context: sample rate of the pipeline.
        soundfonts: folder of the SoundFonts.
        cache: folder in which libraries of patches are kept.

    Raises:
        TimbreflowError: no training font is there, or one cannot be read.
    """
    specs = [SoundFontSpec(name=name, sha256="", role="train") for name in TRAINING_FONTS]
    fractions = SplitFractions(
        validation_pieces=0.0, test_pieces=0.0, test_effects=0.0, test_programs=FRACTIONS.test_programs
    )
    return from_folder(context, soundfonts=specs, fractions=fractions, folder=soundfonts, cache=cache)


BASELINES: dict[str, SystemSpec] = {
    "ulyanov_lebedev": SystemSpec(
        "Ulyanov-Lebedev",
        "The content's spectrogram, changed until statistics of random features are the style's.",
        "baseline",
        UlyanovLebedev,
    ),
    "musaicing": SystemSpec(
        "musaicing", "The content put together from frames of the style (Driedger et al. 2015).", "baseline", Musaicing
    ),
    "transcribe_and_render": SystemSpec(
        "transcribe and re-render",
        "Notes heard in the content, played by the training instrument nearest to the style.",
        "baseline",
        transcribe_and_render,
    ),
}
"""Rows that learn nothing, in the order of the table."""
