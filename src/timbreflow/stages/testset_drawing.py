"""How the frozen test sets were drawn (`timbreflow testset draw`): for maintainers, once.

artificial: GeneralUser GS, a font that training never hears, with held-out effect settings, in the 2 x 2 bins of Cífka
et al. (2021). seen: the same notes with timbres drawn as in training. real: recorded instruments played by a sampler.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from timbreflow.data.manifest import write_clip_notes, write_manifest, write_table
from timbreflow.data.shards import write_shard
from timbreflow.data.splits import timbre_palette
from timbreflow.data.testsets import (
    FRACTIONS,
    SAMPLE_RATE,
    SOUND_SCHEMA,
    TEST_SETS,
    Checksums,
    digest_of_sound,
    sound_row,
    write_checksums,
)
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, sha256_file, stable_hash, write_json
from timbreflow.notes.tables import Notes, NoteTables
from timbreflow.rendering.clips import RenderedClip
from timbreflow.rendering.config import SoundFontSpec, TimbreConfig
from timbreflow.rendering.programs import class_id
from timbreflow.rendering.sampler import INSTRUMENTS
from timbreflow.rendering.synthesizer import fluidsynth_version
from timbreflow.rendering.timbres import Layer, Palette, Timbre, draw_timbre
from timbreflow.rendering.triples import ClipRecipe
from timbreflow.stages.layout import Layout
from timbreflow.stages.testset_programs import melodic_presets, near_programs
from timbreflow.stages.testset_sources import Players, Say, digest, locate
from timbreflow.stages.testset_windows import SECONDS, Deck, Window, all_windows, transposed

SEED = 2026
TEST_FONT = "GeneralUser-v1.47"
TRAINING_FONTS = ("FluidR3_GM", "TimGM6mb", "sf_GMbank", "A320U", "OPL-3_FM_128M")
"""Fonts that the set `seen` sounds with."""

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

_BINS = ("few-low", "few-high", "many-low", "many-high")
_ATTEMPTS = 400
_REAL_ONSETS = range(8, 29)
_MONOPHONIC = 1.02
_MOST_VOICES = 3.0
_REAL_TRANSPOSITIONS = sorted(range(-24, 25), key=lambda shift: (abs(shift), shift))


@dataclass(frozen=True)
class DrawnClip:
    """A clip of a drawn set: what it is made from, and its sound."""

    recipe: ClipRecipe
    notes: Notes
    clip: RenderedClip


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
        checksums[name] = _write(name, clips, sources[name], Path(released))
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
        content = deck.deal(
            lambda w, both=(content_name, style_name): _fit(tables, w, both, players) is not None, purpose
        )  # type: ignore[misc]
        style = deck.deal_partner(
            content,
            lambda w, one=(style_name,): _fit(tables, w, one, players) is not None,
            purpose,  # type: ignore[misc]
        )
        fitted = _fit(tables, content, (content_name, style_name), players), _fit(tables, style, (style_name,), players)
        timbres = [_recorded(name) for name in (content_name, style_name)]
        drawn = None
        if fitted[0] is not None and fitted[1] is not None:
            drawn = _render(f"real-{number:04d}", fitted[0], fitted[1], timbres, players)
        if drawn is None:
            raise TimbreflowError(f"triple {number} of real is silent; check the recordings of {purpose}.")
        clips += drawn
    return clips


def _fit(tables: NoteTables, window: Window, names: Sequence[str], players: Players) -> Window | None:
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


def _write(name: str, clips: Sequence[DrawnClip], sources: dict[str, Path], released: Path) -> Checksums:
    import tempfile

    from timbreflow.audio.files import encode_flac

    flacs = {drawn.recipe.clip_id: encode_flac(drawn.clip.audio, SAMPLE_RATE) for drawn in clips}
    with tempfile.TemporaryDirectory() as scratch:
        tar = Path(scratch) / "shard.tar"
        places = {entry.clip_id: (entry.offset, entry.nbytes) for entry in write_shard(tar, flacs.items())}
        shard = sha256_file(tar)
    sound = [sound_row(clip_id, flacs[clip_id]) for clip_id in sorted(flacs)]
    note_rows: list[dict[str, Any]] = []
    for drawn in clips:
        columns = zip(
            *(getattr(drawn.notes, c).tolist() for c in ("onset", "duration", "pitch", "velocity")), strict=True
        )
        note_rows += [
            {
                "clip_id": drawn.recipe.clip_id,
                "onset": onset,
                "duration": duration,
                "pitch": pitch,
                "velocity": velocity,
            }
            for onset, duration, pitch, velocity in columns
        ]
    with atomic_directory(released / name) as folder:
        write_manifest(folder, [_row(name, drawn, places[drawn.recipe.clip_id]) for drawn in clips])
        write_clip_notes(folder, note_rows)
        write_table(folder / "sound.parquet", sound, SOUND_SCHEMA)
    folder = released / name
    return Checksums(
        manifest=sha256_file(folder / "manifest.parquet"),
        clip_notes=sha256_file(folder / "clip_notes.parquet"),
        sound_table=sha256_file(folder / "sound.parquet"),
        sound=digest_of_sound({row["clip_id"]: row["sha256"] for row in sound}),
        shard=shard,
        sources={source: digest(path) for source, path in sources.items()},
        fluidsynth=fluidsynth_version(),
        triples=len(clips) // 3,
    )


def _row(name: str, drawn: DrawnClip, place: tuple[int, int]) -> dict[str, Any]:
    recipe, clip = drawn.recipe, drawn.clip
    segment, timbre, first = recipe.segment, recipe.timbre, recipe.timbre.layers[0]
    return {
        "clip_id": recipe.clip_id,
        "triple_id": recipe.triple_id,
        "split": name,
        "role": recipe.role,
        "shard": f"{name}/shard-00000.tar",
        "offset": place[0],
        "nbytes": place[1],
        "piece_id": segment.piece_id,
        "track": segment.track,
        "start": segment.start,
        "duration": recipe.seconds,
        "transposition": segment.transposition,
        "timbre_id": timbre.timbre_id,
        "soundfont": first.soundfont,
        "bank": first.bank,
        "program": first.program,
        "n_layers": len(timbre.layers),
        "n_effects": len(timbre.effects),
        "timbre": timbre.to_text(),
        "class_id": class_id(first.program),
        "n_onsets": len(set(drawn.notes.onset.tolist())),
        "n_samples": len(clip.audio),
        "peak": clip.peak,
        "rms": clip.rms,
        "gain_db": clip.gain_db,
    }
