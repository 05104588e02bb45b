"""How the frozen test sets were drawn (`timbreflow testset draw`): for maintainers, once.

artificial: GeneralUser GS, a font that training never hears, with held-out effect settings, in the 2 x 2 bins of Cífka
et al. (2021). seen: the same notes with timbres drawn as in training. real: recorded instruments played by a sampler.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np

from timbreflow.data.splits import timbre_palette
from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash, write_json
from timbreflow.metrics.onsets import onset_f1
from timbreflow.metrics.transcription import Transcriber
from timbreflow.notes.tables import NoteTables
from timbreflow.rendering.config import SoundFontSpec, TimbreConfig
from timbreflow.rendering.sampler import INSTRUMENTS
from timbreflow.rendering.timbres import Layer, Palette, Timbre, draw_timbre
from timbreflow.rendering.triples import ClipRecipe
from timbreflow.stages.layout import Layout
from timbreflow.testsets.frozen import (
    FRACTIONS,
    SAMPLE_RATE,
    TEST_SETS,
    TRAINING_FONTS,
    Checksums,
    write_checksums,
)
from timbreflow.testsets.programs import melodic_presets, near_programs
from timbreflow.testsets.sources import Players, Say, locate
from timbreflow.testsets.windows import SECONDS, Deck, Window, all_windows, transposed
from timbreflow.testsets.writing import DrawnClip, write_set

SEED = 2026
TEST_FONT = "GeneralUser-v1.47"
RELATED_FONTS = ("FluidR3Mono_GM", "MuseScore_General_Lite")
"""Further training fonts, of the family of FluidR3_GM: programs near theirs are dropped from the test font too."""

TRIPLES_PER_BIN = 60
PER_PROGRAM_AND_BIN = 4
REAL_TRIPLES = 72
TIMBRES = TimbreConfig(
    layer_probability=0.0,
    max_layers=1,
    synthesis_probability=0.0,
    equalizer_probability=0.0,
    effect_counts=(0.35, 0.4, 0.2, 0.05),
)
"""Presets as their fonts have them, with the effects of the training data: the two sets differ in fonts alone."""

MIN_ONSET_F1 = 0.5
ONSET_TOLERANCE = 0.15
"""s: bowed and blown notes have no sharp beginning."""

_BINS = ("few-low", "few-high", "many-low", "many-high")
_ATTEMPTS = 400
_REAL_ONSETS = range(8, 29)
_MONOPHONIC = 1.02
_MOST_VOICES = 3.0
_REAL_TRANSPOSITIONS = sorted(range(-24, 25), key=lambda shift: (abs(shift), shift))


def draw(notes: Path, *, layout: Layout, released: Path, say: Say) -> dict[str, Checksums]:
    """Draw the three sets and write them to `released`.

    Args:
        notes: folder of note tables.
        layout: where SoundFonts and recordings lie.
        released: released/testsets.
        say: gets one line a step.

    Raises:
        TimbreflowError: the music does not suffice, or a SoundFont or a package of recordings is missing.
    """
    tables = NoteTables.read(notes)
    windows = all_windows(tables, seed=SEED)
    names = (TEST_FONT, *TRAINING_FONTS, *RELATED_FONTS)
    fonts = {name: locate(name, layout, say=say) for name in names}
    dropped = near_programs({TEST_FONT: fonts[TEST_FONT]}, {n: p for n, p in fonts.items() if n != TEST_FONT})
    write_json(Path(released) / "dropped_programs.json", dropped)
    say(f"{len(windows)} windows; {len(dropped)} programs of {TEST_FONT} dropped.")

    pairs = draw_pairs(windows)
    near = {(program["bank"], program["program"]) for program in dropped}
    sources: dict[str, dict[str, Path]] = {
        "artificial": {TEST_FONT: fonts[TEST_FONT]},
        "seen": {name: fonts[name] for name in TRAINING_FONTS},
        "real": {name: locate(name, layout, say=say) for name in INSTRUMENTS},
    }
    palettes = {"artificial": _palette("test", fonts, near), "seen": _palette("test_seen", fonts, set())}
    checksums = {}
    for name in TEST_SETS:
        players = Players(sources[name], sample_rate=SAMPLE_RATE)
        clips = draw_real(tables, windows, players) if name == "real" else _draw_set(name, pairs, palettes, players)
        players.close()
        if name == "real":
            say(f"real: onset F1 of the targets {_require_audible_onsets(clips):.3f}.")
        checksums[name] = write_set(name, clips, sources[name], Path(released))
        say(f"{name}: {len(clips) // 3} triples.")
    write_checksums(Path(released), checksums)
    return checksums


def draw_pairs(windows: Sequence[Window]) -> list[tuple[Window, Window]]:
    """Windows of content and style, from one bin and different pieces, TRIPLES_PER_BIN of each bin, bin by bin."""
    pairs = []
    for name in _BINS:
        deck = Deck([window for window in windows if window.bin == name], SEED, "pairs")
        for _ in range(TRIPLES_PER_BIN):
            content = deck.deal(lambda _: True, f"the bin {name}")
            pairs.append((content, deck.deal_partner(content, lambda _: True, f"the bin {name}")))
    return pairs


def _palette(split: str, fonts: dict[str, Path], near: set[tuple[int, int]]) -> Palette:
    chosen = (TEST_FONT, *TRAINING_FONTS)
    specs = [SoundFontSpec(name, "", "test" if name == TEST_FONT else "train") for name in chosen]
    palette = timbre_palette(split, melodic_presets({name: fonts[name] for name in chosen}), specs, FRACTIONS)
    kept = tuple(p for p in palette.presets if p.soundfont != TEST_FONT or (p.bank, p.program) not in near)
    return Palette(kept, palette.effect_settings)


def _draw_set(
    name: str, pairs: Sequence[tuple[Window, Window]], palettes: dict[str, Palette], players: Players
) -> list[DrawnClip]:
    used: Counter[tuple[str, int]] = Counter()
    clips = []
    for number, (content, style) in enumerate(pairs):
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng(stable_hash(SEED, "timbres", name, number, attempt))
            timbres = [draw_timbre(rng, palettes[name], TIMBRES, source_program=-1) for _ in range(2)]
            programs = {timbre.layers[0].program for timbre in timbres}
            full = any(used[content.bin, program] >= PER_PROGRAM_AND_BIN for program in programs)
            if len(programs) < 2 or full:
                continue
            drawn = _render(f"{name}-{number:04d}", content, style, timbres, players)
            if drawn is not None:
                used.update((content.bin, program) for program in programs)
                clips += drawn
                break
        else:
            raise TimbreflowError(f"no two programs play the notes of triple {number} of {name}; check its SoundFonts.")
    return clips


def draw_real(tables: NoteTables, windows: Sequence[Window], players: Players) -> list[DrawnClip]:
    """Triples of recorded instruments: every ordered pair in turn, with windows that fit both instruments' ranges.

    Args:
        tables: of the windows.
        windows: of the test pieces.
        players: with all recordings.
    """
    pairs = sorted(permutations(INSTRUMENTS, 2), key=lambda pair: stable_hash(SEED, "real", *pair))
    deck = Deck([w for w in windows if len(set(w.notes.onset.tolist())) in _REAL_ONSETS], SEED, "real")
    clips = []
    for number in range(REAL_TRIPLES):
        content_name, style_name = pairs[number % len(pairs)]
        purpose = f"{content_name} and {style_name}"
        both, one = (content_name, style_name), (style_name,)
        content = deck.deal(partial(_fits, tables, players, both), purpose)
        style = deck.deal_partner(content, partial(_fits, tables, players, one), purpose)
        fitted = _fit(tables, players, both, content), _fit(tables, players, one, style)
        timbres = [_recorded(name) for name in (content_name, style_name)]
        drawn = None
        if fitted[0] is not None and fitted[1] is not None:
            drawn = _render(f"real-{number:04d}", fitted[0], fitted[1], timbres, players)
        if drawn is None:
            raise TimbreflowError(f"triple {number} of real is silent; check the recordings of {purpose}.")
        clips += drawn
    return clips


def _require_audible_onsets(clips: Sequence[DrawnClip]) -> float:
    """Mean onset F1 of the targets, which must reach MIN_ONSET_F1: no score tells systems apart on notes unheard."""
    targets = [drawn for drawn in clips if drawn.recipe.role == "target"]
    heard = Transcriber().transcribe([drawn.clip.audio for drawn in targets], SAMPLE_RATE)
    scores = [onset_f1(h, t.notes, tolerance=ONSET_TOLERANCE) for h, t in zip(heard, targets, strict=True)]
    mean = float(np.mean(scores))
    if mean < MIN_ONSET_F1:
        raise TimbreflowError(f"the targets of real reach an onset F1 of {mean:.2f} only; choose sparser windows.")
    return mean


def _fits(tables: NoteTables, players: Players, names: Sequence[str], window: Window) -> bool:
    return _fit(tables, players, names, window) is not None


def _fit(tables: NoteTables, players: Players, names: Sequence[str], window: Window) -> Window | None:
    """The window in the least transposition that all instruments play, or None."""
    chords = all(INSTRUMENTS[name].chords for name in names)
    if window.voices > (_MOST_VOICES if chords else _MONOPHONIC):
        return None
    base = window.notes.pitch.astype(int) - window.segment.transposition
    for shift in _REAL_TRANSPOSITIONS:
        pitches = sorted(set((base + shift).tolist()))
        if all(players.sampler.reaches(name, pitch) for name in names for pitch in pitches):
            return transposed(tables, window, shift)
    return None


def _recorded(name: str) -> Timbre:
    return Timbre((Layer(name, 0, INSTRUMENTS[name].program, 0.0),), None, (), None)


def _render(
    triple: str, content: Window, style: Window, timbres: Sequence[Timbre], players: Players
) -> list[DrawnClip] | None:
    before, after = timbres
    parts = (("content", content, before), ("style", style, after), ("target", content, after))
    drawn = []
    for role, window, timbre in parts:
        recipe = ClipRecipe(triple, role, window.segment, timbre, SECONDS)
        clip = players.render(recipe, window.notes)
        if clip is None:
            return None
        drawn.append(DrawnClip(recipe, window.notes, clip))
    return drawn
