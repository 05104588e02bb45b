"""What the training instruments sound like: a library in which the nearest to a recording is looked up.

Each patch (SoundFont, bank, program) plays one short phrase in three registers. Of every register mean and deviation of
MFCC 2-13 are kept (`evaluation/timbre.py`); a patch is as near to a recording as the nearest of its registers, since a
recording seldom spans more than one.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timbreflow.audio.files import resample
from timbreflow.data.splits import timbre_palette
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, sha256_file, stable_hash
from timbreflow.metrics.signals import SAMPLE_RATE
from timbreflow.metrics.timbre import mfcc_statistics
from timbreflow.notes.tables import Notes
from timbreflow.rendering.config import SoundFontSpec, SplitFractions
from timbreflow.rendering.soundfonts import Preset, list_presets
from timbreflow.rendering.synthesizer import Synthesizer, fluidsynth_version
from timbreflow.rendering.timbres import Layer

LIBRARY_VERSION = 1
"""Raised when the same fonts come to give other figures, so that a library of before is not read."""

PHRASE_SECONDS = 3.0
PHRASE = Notes.of(
    onsets := [0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.5, 1.5],
    [0.3, 0.3, 0.3, 0.3, 0.3, 1.0, 1.0, 1.0],
    [60, 64, 67, 72, 69, 60, 64, 67],
    [80] * len(onsets),
)
"""Short notes and a held chord about middle C."""

REGISTERS = (-15, 0, 12)
"""Semitones by which the phrase is moved."""

_SILENT = 1e-4
"""Root mean square under which a register counts as one that the patch does not play: -80 dBFS."""


@dataclass(frozen=True)
class PatchLibrary:
    """Statistics of patches.

    Args:
        presets: the patches.
        statistics: [P, R, 24] of `mfcc_statistics`, one row a register; NaN where a patch is silent.
    """

    presets: tuple[Preset, ...]
    statistics: NDArray[np.float64]

    def ranked(self, statistics: NDArray[np.float64]) -> list[Preset]:
        """Patches from the nearest to the farthest by cosine distance to a recording's statistics [24]."""
        own = self.statistics / np.linalg.norm(self.statistics, axis=-1, keepdims=True)
        cosines = own @ (statistics / max(float(np.linalg.norm(statistics)), 1e-12))
        nearness = np.where(np.isnan(cosines), -np.inf, cosines).max(axis=1)
        return [self.presets[index] for index in np.argsort(-nearness, kind="stable")]


def patch_statistics(audio: NDArray[np.float32], sample_rate: int) -> NDArray[np.float64]:
    """Mean and deviation of MFCC 2-13 [24] of a sound [N] at any rate."""
    return mfcc_statistics(resample(audio, sample_rate, SAMPLE_RATE))


def training_presets(
    paths: Mapping[str, Path], soundfonts: Sequence[SoundFontSpec], fractions: SplitFractions
) -> tuple[Preset, ...]:
    """Pitched presets that timbres of the train split may use: none of a test font, none of a held-out program.

    Raises:
        TimbreflowError: a font cannot be read, or nothing is left.
    """
    training = [font.name for font in soundfonts if font.role == "train" and font.name in paths]
    presets = [preset for name in training for preset in list_presets(paths[name], name)]
    return timbre_palette("train", presets, soundfonts, fractions).presets


def open_library(
    paths: Mapping[str, Path], presets: Sequence[Preset], *, sample_rate: int, folder: Path
) -> PatchLibrary:
    """Read the library of these patches from a folder, or make it (some seconds a SoundFont) and keep it there.

    Raises:
        TimbreflowError: a font cannot be loaded, no patch sounds, or the kept library is broken.
    """
    used = sorted({preset.soundfont for preset in presets})
    names = [[preset.soundfont, preset.bank, preset.program] for preset in presets]
    digests = [sha256_file(paths[name]) for name in used]
    key = stable_hash("patches", LIBRARY_VERSION, fluidsynth_version(), sample_rate, digests, names)
    kept = folder / f"{key:016x}.npz"
    if not kept.is_file():
        statistics = _measure(paths, presets, sample_rate)
        with atomic_file(kept) as temporary, open(temporary, "wb") as file:
            np.savez(file, statistics=statistics)
    try:
        with np.load(kept) as arrays:
            statistics = arrays["statistics"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TimbreflowError(f"{kept} is no library of patches ({error}); delete it, it is made again.") from error
    if statistics.shape[0] != len(presets) or np.isnan(statistics).all():
        raise TimbreflowError(f"none of the patches of {', '.join(used) or 'no SoundFont'} sounds; fetch SoundFonts.")
    return PatchLibrary(tuple(presets), statistics)


def _measure(paths: Mapping[str, Path], presets: Sequence[Preset], sample_rate: int) -> NDArray[np.float64]:
    statistics = np.full((len(presets), len(REGISTERS), 24), np.nan)
    for name in sorted({preset.soundfont for preset in presets}):
        # One font at a time: together they would hold more than a gigabyte.
        synthesizer = Synthesizer({name: paths[name]}, sample_rate=sample_rate)
        for row, preset in enumerate(presets):
            if preset.soundfont != name:
                continue
            for column, semitones in enumerate(REGISTERS):
                layer = Layer(preset.soundfont, preset.bank, preset.program, 0.0)
                audio = synthesizer.play(PHRASE.transposed(semitones), [layer], None, seconds=PHRASE_SECONDS)
                if np.sqrt(np.mean(np.square(audio, dtype=np.float64))) > _SILENT:
                    statistics[row, column] = patch_statistics(audio, sample_rate)
        synthesizer.close()
    return statistics
