"""From a recipe to finished sound: synthesizer, effects, a short fade, and one loudness for all clips."""

from dataclasses import dataclass

import numpy as np

from timbreflow.notes.tables import Notes
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.triples import ClipRecipe

RMS_DBFS = -23.0
"""Level of every clip, less where the peak would pass PEAK."""

PEAK = 0.99

SILENCE_DBFS = -60.0
"""A clip below this before scaling is silent: music comes out of the synthesizer at -50 to -20 dBFS."""

FADE_SECONDS = 0.02
"""The clip ends in the middle of sounds; this much of a fade avoids a click."""


@dataclass(frozen=True)
class RenderedClip:
    """A finished clip.

    Args:
        audio: [N] float32.
        peak: greatest absolute sample.
        rms: root mean square.
        gain_db: what brought it to this level.
    """

    audio: np.ndarray
    peak: float
    rms: float
    gain_db: float


def render_recipe(recipe: ClipRecipe, notes: Notes, synthesizer: Synthesizer) -> RenderedClip | None:
    """Render a clip.

    Args:
        recipe: timbre and length.
        notes: of the recipe's segment (`triples.segment_notes`).
        synthesizer: with the timbre's fonts loaded.

    Returns:
        The clip, or None when it would not play its notes: it is silent, or the first layer's preset does not
        reach one of the pitches.

    Raises:
        TimbreflowError: a font or preset of the timbre is not loaded.
    """
    timbre = recipe.timbre
    if not all(synthesizer.reaches(timbre.layers[0], pitch) for pitch in sorted(set(notes.pitch.tolist()))):
        return None
    audio = synthesizer.play(notes, timbre.layers, timbre.synthesis, seconds=recipe.seconds)
    if is_silent(audio):  # the effects would only make noise of it
        return None
    return finished(timbre.process(audio, synthesizer.sample_rate), synthesizer.sample_rate)


def finished(audio: np.ndarray, sample_rate: int) -> RenderedClip | None:
    """Fade the end of a clip, which is changed in place, and bring it to its level; None when it is silent."""
    n_fade = min(round(FADE_SECONDS * sample_rate), len(audio))
    audio[-n_fade:] *= np.linspace(1, 0, n_fade, dtype=np.float32)
    if is_silent(audio):
        return None
    gain = min(10 ** (RMS_DBFS / 20) / _rms(audio), PEAK / float(np.max(np.abs(audio))))
    audio = audio * np.float32(gain)
    return RenderedClip(audio, float(np.max(np.abs(audio))), _rms(audio), float(20 * np.log10(gain)))


def is_silent(audio: np.ndarray) -> bool:
    """Whether audio [N] lies below SILENCE_DBFS, or is not finite."""
    return not 10 ** (SILENCE_DBFS / 20) <= _rms(audio) < np.inf


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
