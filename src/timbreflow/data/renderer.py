"""Triples by number: the same clips for the same seed, split and number, whoever asks and in whichever order."""

from dataclasses import dataclass
from pathlib import Path

from timbreflow.data.splits import PIECES_OF, piece_split, timbre_palette
from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import Notes, NoteTables
from timbreflow.rendering.clips import RenderedClip, render_recipe
from timbreflow.rendering.config import RenderConfig
from timbreflow.rendering.soundfonts import find_soundfont, list_presets
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.timbres import Palette
from timbreflow.rendering.triples import ClipRecipe, SegmentPool, TripleRecipe, draw_triple, segment_notes

ATTEMPTS = 20
"""Draws of a triple before its notes are called silent."""


@dataclass(frozen=True)
class RenderInputs:
    """What triples are rendered from.

    Args:
        config: which triples.
        notes: folder of note tables.
        soundfonts: folder of SoundFonts.
    """

    config: RenderConfig
    notes: Path
    soundfonts: Path


class TripleRenderer:
    """Note tables, pools, palettes, and a synthesizer with its fonts loaded. Not to be shared between threads.

    Args:
        inputs: what triples are rendered from.

    Raises:
        TimbreflowError: notes, a SoundFont or FluidSynth are missing.
    """

    def __init__(self, inputs: RenderInputs) -> None:
        self.config = inputs.config
        self._tables = NoteTables.read(inputs.notes)
        self._pools = segment_pools(self._tables, self.config)
        paths = {font.name: find_soundfont(font, inputs.soundfonts) for font in self.config.soundfonts}
        self._presets = [preset for name, path in paths.items() for preset in list_presets(path, name)]
        self._synthesizer = Synthesizer(paths, sample_rate=self.config.sample_rate)
        self._palettes: dict[str, Palette] = {}

    def render(self, split: str, number: int) -> tuple[list[tuple[ClipRecipe, RenderedClip, Notes]], int]:
        """The clips of a triple with their recipes and notes, and the number of failed attempts before it.

        Args:
            split: train, validation, test or test_seen.
            number: of the triple in it, from 0; there are as many as one likes.

        Raises:
            TimbreflowError: the notes hold no segments, or every attempt had silent notes.
        """
        for attempt in range(ATTEMPTS):
            recipe = self._draw(split, number, attempt)
            rendered = []
            for clip_recipe in recipe.clips:
                notes = segment_notes(self._tables, clip_recipe.segment, self.config.clip_seconds)
                # Transposition drops notes that leave MIDI's range.
                if n_onsets(notes) < self.config.min_onsets:
                    break
                clip = render_recipe(clip_recipe, notes, self._synthesizer)
                if clip is None:
                    break
                rendered.append((clip_recipe, clip, notes))
            else:
                return rendered, attempt
        raise TimbreflowError(
            f"Triple {number} of the split {split} had silent notes in each of {ATTEMPTS} attempts; check that the "
            "SoundFonts of render_triples.soundfonts hold instruments for the pitches of this music."
        )

    def _draw(self, split: str, number: int, attempt: int) -> TripleRecipe:
        pieces = PIECES_OF[split]
        if split not in self._palettes:
            fonts, fractions = self.config.soundfonts, self.config.splits
            self._palettes[split] = timbre_palette(split, self._presets, fonts, fractions)
        palette = self._palettes[split]
        pool = self._pools[pieces]
        return draw_triple(pool, palette, self.config, split=split, pieces=pieces, number=number, attempt=attempt)


def segment_pools(tables: NoteTables, config: RenderConfig) -> dict[str, SegmentPool]:
    """The segments of each split of the pieces."""
    pieces: dict[str, list[str]] = {name: [] for name in set(PIECES_OF.values())}
    for piece in tables.pieces["piece_id"]:
        pieces[piece_split(piece, config.splits)].append(piece)
    return {name: SegmentPool(tables, members, config) for name, members in pieces.items()}


def n_onsets(notes: Notes) -> int:
    """Number of distinct onsets: a chord is one."""
    return len(set(notes.onset.tolist()))
