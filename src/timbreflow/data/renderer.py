"""Triples by number: the same clips for the same seed, split and number, in any process and any order."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from timbreflow.data.splits import PIECES_OF, piece_split, timbre_palette
from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import Notes, NoteTables
from timbreflow.rendering.clips import RenderedClip, render_recipe
from timbreflow.rendering.config import RenderConfig
from timbreflow.rendering.soundfonts import find_soundfonts, list_all_presets
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.triples import ClipRecipe, SegmentPool, draw_triple, segment_notes

ATTEMPTS = 20
"""Times that a triple is drawn before its notes count as silent."""


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
        paths = find_soundfonts(self.config.soundfonts, inputs.soundfonts)
        presets = list_all_presets(paths)
        self._palette_of = lru_cache(
            lambda split: timbre_palette(split, presets, self.config.soundfonts, self.config.splits)
        )
        self._synthesizer = Synthesizer(paths, sample_rate=self.config.sample_rate)

    def render(self, split: str, number: int) -> tuple[list[tuple[ClipRecipe, RenderedClip, Notes]], int]:
        """The clips of a triple with their recipes and notes, and the number of failed attempts before it.

        Args:
            split: train, validation, test or test_seen.
            number: of the triple in it, from 0, without an upper limit.

        Raises:
            TimbreflowError: the notes hold no segments, or every attempt had silent notes.
        """
        for attempt in range(ATTEMPTS):
            recipes = draw_triple(
                self._pools[PIECES_OF[split]],
                self._palette_of(split),
                self.config,
                split=split,
                pieces=PIECES_OF[split],
                number=number,
                attempt=attempt,
            )
            rendered = []
            for recipe in recipes.values():
                notes = segment_notes(self._tables, recipe.segment, self.config.clip_seconds)
                # Transposition drops notes that leave MIDI's range.
                if n_onsets(notes) < self.config.min_onsets:
                    break
                clip = render_recipe(recipe, notes, self._synthesizer)
                if clip is None:
                    break
                rendered.append((recipe, clip, notes))
            else:
                return rendered, attempt
        raise TimbreflowError(
            f"Triple {number} of the split {split} had silent notes in each of {ATTEMPTS} attempts; check that the "
            "SoundFonts hold instruments for the pitches of this music."
        )


def segment_pools(tables: NoteTables, config: RenderConfig) -> dict[str, SegmentPool]:
    """The segments of each split of the pieces."""
    pieces: dict[str, list[str]] = {name: [] for name in set(PIECES_OF.values())}
    for piece in tables.pieces["piece_id"]:
        pieces[piece_split(piece, config.splits)].append(piece)
    return {name: SegmentPool(tables, members, config) for name, members in pieces.items()}


def n_onsets(notes: Notes) -> int:
    """Number of distinct onsets: a chord is one."""
    return len(set(notes.onset.tolist()))
