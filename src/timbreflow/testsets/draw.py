"""`timbreflow testset create`: how the frozen test sets were drawn, from music to the tables in git.

artificial: GeneralUser GS, a font that training never uses, with held-out effect settings, in the 2 x 2 bins of Cífka
et al. (2021). seen: the same notes with timbres drawn as in training. real: recorded instruments played by a sampler.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pandas as pd
import pretty_midi
from numpy.typing import NDArray

from timbreflow.audio.files import encode_flac
from timbreflow.data.manifest import write_clip_notes, write_manifest, write_table
from timbreflow.data.shards import write_shard
from timbreflow.data.splits import timbre_palette
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, sha256_file, stable_hash, write_json
from timbreflow.metrics.onsets import onset_f1
from timbreflow.metrics.transcription import Transcriber
from timbreflow.notes.tables import Notes, NoteTables
from timbreflow.rendering.clips import RenderedClip
from timbreflow.rendering.config import SoundFontSpec, TimbreConfig
from timbreflow.rendering.programs import PITCHED_PROGRAMS
from timbreflow.rendering.sampler import INSTRUMENTS
from timbreflow.rendering.soundfonts import MELODIC_BANKS, Preset, list_presets
from timbreflow.rendering.synthesizer import Synthesizer, fluidsynth_version
from timbreflow.rendering.timbres import Layer, Palette, Timbre, draw_timbre
from timbreflow.rendering.triples import ClipRecipe
from timbreflow.stages.layout import Layout
from timbreflow.stages.render_triples import manifest_row
from timbreflow.testsets.frozen import (
    FRACTIONS,
    SAMPLE_RATE,
    SOUND_SCHEMA,
    TEST_SETS,
    TRAINING_FONTS,
    Checksums,
    digest_of_sound,
    shard_name,
    sound_row,
    write_checksums,
)
from timbreflow.testsets.sources import Players, Say, digest, locate
from timbreflow.testsets.windows import SECONDS, Deck, Window, all_windows, make_window

SEED = 2026
TEST_FONT = "GeneralUser-v1.47"
RELATED_FONTS = ("FluidR3Mono_GM", "MuseScore_General_Lite")
"""Training fonts with the samples of FluidR3_GM: the test font loses the programs that are near theirs, too."""

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
"""One plain preset and the effects of the training data, so that artificial and seen differ in fonts alone."""

MIN_ONSET_F1 = 0.5
ONSET_TOLERANCE = 0.15
"""s: bowed and blown notes have no sharp beginning."""

NEAR_DB = 2.5
"""Programs nearer than this, by the median over the loud cells of their log-mels, count as the same."""

_BINS = ("few-low", "few-high", "many-low", "many-high")
_ATTEMPTS = 400
_REAL_ONSETS = range(8, 29)
_MONOPHONIC = 1.02  # voices
_MAX_VOICES = 3.0
_REAL_TRANSPOSITIONS = sorted(range(-24, 25), key=lambda shift: (abs(shift), shift))

_PROBE = Notes.of([0.0], [1.0], [60], [100])
_PROBE_SECONDS = 1.5
_PROBE_RMS = 0.07
_FLOOR = 1e-2
_LOUD_DB = -38.0  # 2 dB above the floor: cells where both programs are silent are not compared


@dataclass(frozen=True)
class DrawnClip:
    """A clip of a set: what it is made from, and its sound."""

    recipe: ClipRecipe
    notes: Notes
    clip: RenderedClip


def draw(notes: Path, *, layout: Layout, released: Path, say: Say) -> dict[str, Checksums]:
    """Draw the three sets from a folder of note tables and write them to `released`.

    Raises:
        TimbreflowError: there is too little music, or a SoundFont or a package of recordings is missing.
    """
    tables = NoteTables.read(notes)
    windows = all_windows(tables, seed=SEED)
    fonts = {name: locate(name, layout, say=say) for name in (TEST_FONT, *TRAINING_FONTS, *RELATED_FONTS)}
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
        if name == "real":
            clips = draw_real(tables, windows, players)
            say(f"real: onset F1 of the targets {_require_audible_onsets(clips):.3f}.")
        else:
            clips = _draw_rendered(name, pairs, palettes[name], players)
        players.close()
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
            content = deck.deal(f"the bin {name}")
            pairs.append((content, deck.deal_partner(content, f"the bin {name}")))
    return pairs


def draw_real(tables: NoteTables, windows: Sequence[Window], players: Players) -> list[DrawnClip]:
    """Triples of recorded instruments: every ordered pair in turn, with windows that fit both instruments' ranges."""
    pairs = sorted(permutations(INSTRUMENTS, 2), key=lambda pair: stable_hash(SEED, "real", *pair))
    deck = Deck([w for w in windows if len(set(w.notes.onset.tolist())) in _REAL_ONSETS], SEED, "real")
    clips = []
    for number in range(REAL_TRIPLES):
        names = pairs[number % len(pairs)]
        purpose = " and ".join(names)
        fit_both, fit_style = (partial(_transposed, tables, players, played_by) for played_by in (names, names[1:]))
        content = deck.deal(purpose, fit_both)
        style = deck.deal_partner(content, purpose, fit_style)
        timbres = [Timbre((Layer(name, 0, INSTRUMENTS[name].program, 0.0),), None, (), None) for name in names]
        drawn = _render(f"real-{number:04d}", fit_both(content), fit_style(style), timbres, players)
        if drawn is None:
            raise TimbreflowError(f"triple {number} of real is silent; check the recordings of {purpose}.")
        clips += drawn
    return clips


def _palette(split: str, fonts: Mapping[str, Path], near: set[tuple[int, int]]) -> Palette:
    chosen = (TEST_FONT, *TRAINING_FONTS)
    specs = [SoundFontSpec(name, "", "test" if name == TEST_FONT else "train") for name in chosen]
    palette = timbre_palette(split, _melodic_presets({name: fonts[name] for name in chosen}), specs, FRACTIONS)
    kept = tuple(p for p in palette.presets if p.soundfont != TEST_FONT or (p.bank, p.program) not in near)
    return Palette(kept, palette.effect_settings)


def _draw_rendered(
    name: str, pairs: Sequence[tuple[Window, Window]], palette: Palette, players: Players
) -> list[DrawnClip]:
    """Triples of a set of SoundFonts: the notes of `pairs` with two programs that play them."""
    used: Counter[tuple[str, int]] = Counter()
    clips = []
    for number, (content, style) in enumerate(pairs):
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng(stable_hash(SEED, "timbres", name, number, attempt))
            timbres = [draw_timbre(rng, palette, TIMBRES, source_program=-1) for _ in range(2)]
            programs = {timbre.layers[0].program for timbre in timbres}
            if len(programs) < 2 or any(used[content.bin, program] >= PER_PROGRAM_AND_BIN for program in programs):
                continue
            drawn = _render(f"{name}-{number:04d}", content, style, timbres, players)
            if drawn is not None:
                used.update((content.bin, program) for program in programs)
                clips += drawn
                break
        else:
            raise TimbreflowError(f"no two programs play the notes of triple {number} of {name}; check its SoundFonts.")
    return clips


def _transposed(tables: NoteTables, players: Players, names: Sequence[str], window: Window) -> Window | None:
    """The window in the least transposition that all instruments play, or None."""
    chords = all(INSTRUMENTS[name].chords for name in names)
    if window.voices > (_MAX_VOICES if chords else _MONOPHONIC):
        return None
    base = window.notes.pitch.astype(int) - window.segment.transposition
    for shift in _REAL_TRANSPOSITIONS:
        pitches = sorted(set((base + shift).tolist()))
        if all(players.sampler.reaches(name, pitch) for name in names for pitch in pitches):
            return make_window(tables, replace(window.segment, transposition=shift))
    return None


def _render(
    triple: str, content: Window | None, style: Window | None, timbres: Sequence[Timbre], players: Players
) -> list[DrawnClip] | None:
    """Content, style and target of a triple, or None where one of them is not played."""
    drawn = []
    before, after = timbres
    for role, window, timbre in (("content", content, before), ("style", style, after), ("target", content, after)):
        if window is None:
            return None
        recipe = ClipRecipe(triple, role, window.segment, timbre, SECONDS)
        clip = players.render(recipe, window.notes)
        if clip is None:
            return None
        drawn.append(DrawnClip(recipe, window.notes, clip))
    return drawn


def _require_audible_onsets(clips: Sequence[DrawnClip]) -> float:
    """Mean onset F1 of the targets, at least MIN_ONSET_F1: below it, onset scores do not distinguish systems."""
    targets = [drawn for drawn in clips if drawn.recipe.role == "target"]
    heard = Transcriber().transcribe([drawn.clip.audio for drawn in targets], SAMPLE_RATE)
    scores = [onset_f1(h, t.notes, tolerance=ONSET_TOLERANCE) for h, t in zip(heard, targets, strict=True)]
    mean = float(np.mean(scores))
    if mean < MIN_ONSET_F1:
        raise TimbreflowError(f"the targets of real reach an onset F1 of {mean:.2f} only; choose sparser windows.")
    return mean


def write_set(name: str, clips: Sequence[DrawnClip], sources: Mapping[str, Path], released: Path) -> Checksums:
    """Write the tables of a set as git keeps them: manifest, notes and fingerprints, but no sound.

    `clips` are content, style and target of each triple in turn. Returns the set's entry of checksums.json.
    """
    flacs = {drawn.recipe.clip_id: encode_flac(drawn.clip.audio, SAMPLE_RATE) for drawn in clips}
    sound = [sound_row(clip_id, flacs[clip_id]) for clip_id in sorted(flacs)]
    folder, shard = released / name, shard_name(name)
    with atomic_directory(folder) as fresh:
        tar = fresh / "shard.tar"
        places = {entry.clip_id: (entry.offset, entry.nbytes) for entry in write_shard(tar, flacs.items())}
        shard_sha256 = sha256_file(tar)
        tar.unlink()
        rows = [
            manifest_row(
                drawn.recipe,
                drawn.clip,
                drawn.notes,
                split=name,
                shard=shard.removesuffix(".tar"),
                place=places[drawn.recipe.clip_id],
            )
            for drawn in clips
        ]
        write_manifest(fresh, rows)
        notes = [pd.DataFrame({"clip_id": drawn.recipe.clip_id, **vars(drawn.notes)}) for drawn in clips]
        write_clip_notes(fresh, pd.concat(notes))
        write_table(fresh / "sound.parquet", sound, SOUND_SCHEMA)
    return Checksums(
        manifest=sha256_file(folder / "manifest.parquet"),
        clip_notes=sha256_file(folder / "clip_notes.parquet"),
        sound_table=sha256_file(folder / "sound.parquet"),
        sound=digest_of_sound({row["clip_id"]: row["sha256"] for row in sound}),
        shard=shard_sha256,
        sources={source: digest(path) for source, path in sources.items()},
        fluidsynth=fluidsynth_version(),
        triples=len(clips) // 3,
    )


def near_programs(test: Mapping[str, Path], training: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Programs of test fonts within NEAR_DB of any program of a training font: they are no unseen timbres.

    Compared is one note (C4, 1 s) at equal RMS.

    Returns:
        One dict a program: soundfont, bank, program, name, nearest (the same fields), distance_db; in their order.
    """
    synthesizer = Synthesizer({**test, **training}, sample_rate=SAMPLE_RATE)
    try:
        tested, known = _log_mels(synthesizer, test), _log_mels(synthesizer, training)
    finally:
        synthesizer.close()
    references = np.stack([log_mel for _, log_mel in known])
    found = []
    for preset, log_mel in tested:
        loud = (references > _LOUD_DB) | (log_mel > _LOUD_DB)
        differences = np.abs(references - log_mel)
        distances = [float(np.median(cells[where])) for cells, where in zip(differences, loud, strict=True)]
        nearest = int(np.argmin(distances))
        if distances[nearest] < NEAR_DB:
            entry = {"nearest": asdict(known[nearest][0]), "distance_db": round(distances[nearest], 2)}
            found.append(asdict(preset) | entry)
    return found


def _melodic_presets(fonts: Mapping[str, Path]) -> list[Preset]:
    """Presets of the fonts that timbres may use."""
    general_midi = [(program, pretty_midi.program_to_instrument_name(program)) for program in PITCHED_PROGRAMS]
    presets: list[Preset] = []
    for name, path in fonts.items():
        # MuseScore leaves out the padding of odd chunks, so its preset headers cannot be found; these are GM fonts.
        presets += (
            [Preset(name, 0, *known) for known in general_midi] if path.suffix == ".sf3" else list_presets(path, name)
        )
    return [preset for preset in presets if preset.bank in MELODIC_BANKS and preset.program in PITCHED_PROGRAMS]


def _log_mels(synthesizer: Synthesizer, fonts: Mapping[str, Path]) -> list[tuple[Preset, NDArray[np.float32]]]:
    """Log-mel [64, T] in dB of the probe note by each preset that plays it."""
    bank = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=2048, n_mels=64, norm=None)
    found = []
    for preset in _melodic_presets(fonts):
        layer = Layer(preset.soundfont, preset.bank, preset.program, 0.0)
        audio = synthesizer.play(_PROBE, [layer], None, seconds=_PROBE_SECONDS)
        rms = float(np.sqrt(np.mean(np.square(audio))))
        if rms < 1e-6:  # some presets leave middle C out
            continue
        magnitude = bank @ np.abs(librosa.stft(audio * (_PROBE_RMS / rms), n_fft=2048, hop_length=512))
        found.append((preset, (20 * np.log10(np.maximum(magnitude, _FLOOR))).astype(np.float32)))
    return found
