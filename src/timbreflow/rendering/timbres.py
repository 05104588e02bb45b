"""A timbre: everything that makes one instrument sound as it does, apart from its notes."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash
from timbreflow.rendering.config import TimbreConfig
from timbreflow.rendering.effect_settings import RANGES, Effect, draw_effect
from timbreflow.rendering.effects import equalizer
from timbreflow.rendering.programs import PITCHED_PROGRAMS, program_class
from timbreflow.rendering.soundfonts import Preset


@dataclass(frozen=True)
class Layer:
    """One preset of a SoundFont and how loud it plays.

    Args:
        soundfont: name of the font.
        bank: MIDI bank.
        program: MIDI program, from 0.
        gain_db: at most 0.
    """

    soundfont: str
    bank: int
    program: int
    gain_db: float


@dataclass(frozen=True)
class Synthesis:
    """Offsets to the generators of a preset, in the units of the SoundFont format.

    Args:
        filter_cutoff: cents; negative is darker.
        filter_resonance: cB.
        vibrato_depth: cents of pitch.
        vibrato_rate: cents relative to the preset's (8.2 Hz where it sets none).
        attack: timecents; 1200 doubles the time.
        decay: timecents.
        sustain: cB of attenuation.
        release: timecents.
        fine_tune: cents.
    """

    filter_cutoff: float
    filter_resonance: float
    vibrato_depth: float
    vibrato_rate: float
    attack: float
    decay: float
    sustain: float
    release: float
    fine_tune: float


GENERATORS: Mapping[str, tuple[int, float, float]] = {
    "filter_cutoff": (8, -4800, 0),
    "filter_resonance": (9, 0, 120),
    "vibrato_depth": (6, 0, 40),
    "vibrato_rate": (24, -1200, 0),
    "attack": (34, -3000, 3000),
    "decay": (36, -2400, 2400),
    "sustain": (37, -100, 200),
    "release": (38, -2400, 2400),
    "fine_tune": (52, -12, 12),
}
"""Fields of `Synthesis`: the SoundFont 2.04 generator (section 8.1.2) that they are added to, and the range from which
they are drawn. Pitch stays within 12 cents: the notes are the content's."""

LAYER_GAIN_DB = (-9.0, 0.0)


@dataclass(frozen=True)
class Equalizer:
    """Gains and centre of `effects.equalizer`, in dB and Hz."""

    low_db: float
    middle_db: float
    middle_hz: float
    high_db: float


@dataclass(frozen=True)
class Timbre:
    """The whole recipe of an instrument. Equal timbres have equal ids, on every machine.

    Args:
        layers: presets that sound together; the first gives the timbre its program.
        synthesis: offsets to the generators of all layers, or None.
        effects: applied in this order.
        equalizer: applied last, or None.
    """

    layers: tuple[Layer, ...]
    synthesis: Synthesis | None
    effects: tuple[Effect, ...]
    equalizer: Equalizer | None

    @property
    def timbre_id(self) -> str:
        """16 hexadecimal digits of the hash of the recipe."""
        return f"{stable_hash('timbre', self.as_json()):016x}"

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "effects": [effect.as_json() for effect in self.effects]}

    def to_text(self) -> str:
        """One line of JSON, as the manifest keeps it."""
        return json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "Timbre":
        """The inverse of `to_text`.

        Raises:
            TimbreflowError: the text is not a timbre.
        """
        try:
            value = json.loads(text)
            return cls(
                layers=tuple(Layer(**layer) for layer in value["layers"]),
                synthesis=None if value["synthesis"] is None else Synthesis(**value["synthesis"]),
                effects=tuple(Effect.from_json(effect) for effect in value["effects"]),
                equalizer=None if value["equalizer"] is None else Equalizer(**value["equalizer"]),
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TimbreflowError(f"{text[:60]!r} is not a timbre ({error}); render the triples again.") from error

    def process(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Effects and equalizer on the synthesizer's audio [N] float32: [N] float32."""
        for effect in self.effects:
            audio = effect.apply(audio, sample_rate)
        if self.equalizer is not None:
            audio = equalizer(audio, sample_rate, **dataclasses.asdict(self.equalizer))
        return audio


@dataclass(frozen=True)
class Palette:
    """What the timbres of one split are made of.

    Args:
        presets: presets that may be used, also as layers.
        effect_settings: settings of effects that may be used.
    """

    presets: tuple[Preset, ...]
    effect_settings: frozenset[str]


def draw_timbre(rng: np.random.Generator, palette: Palette, config: TimbreConfig, *, source_program: int) -> Timbre:
    """Draw a timbre for notes that were written for a program.

    The program of the first layer is redrawn within the class of `source_program` (Cífka et al. 2021), or among all
    when that is -1 (unset) or when the palette has none of the class.

    Args:
        rng: all randomness comes from it.
        palette: what the split may use.
        config: probabilities.
        source_program: MIDI program of the track, -1 unset.
    """
    programs = sorted({preset.program for preset in palette.presets})
    if source_program in PITCHED_PROGRAMS:
        programs = [program for program in programs if program in program_class(source_program)] or programs
    first = _draw_preset(rng, palette, programs)
    layers = [Layer(first.soundfont, first.bank, first.program, 0.0)]
    if config.max_layers > 1 and rng.random() < config.layer_probability:
        programs = sorted({preset.program for preset in palette.presets} - {first.program})
        for _ in range(min(int(rng.integers(1, config.max_layers)), len(programs))):
            preset = _draw_preset(rng, palette, programs)
            programs.remove(preset.program)
            layers.append(Layer(preset.soundfont, preset.bank, preset.program, float(rng.uniform(*LAYER_GAIN_DB))))
    synthesis = _draw_synthesis(rng) if rng.random() < config.synthesis_probability else None
    effects = _draw_effects(rng, palette, config)
    drawn_equalizer = _draw_equalizer(rng) if rng.random() < config.equalizer_probability else None
    return Timbre(tuple(layers), synthesis, effects, drawn_equalizer)


def _draw_preset(rng: np.random.Generator, palette: Palette, programs: list[int]) -> Preset:
    program = programs[rng.integers(len(programs))]
    choices = [preset for preset in palette.presets if preset.program == program]
    return choices[rng.integers(len(choices))]


def _draw_synthesis(rng: np.random.Generator) -> Synthesis:
    # Each offset is left out half of the time, so that timbres differ in kind and not only in degree.
    drawn = {
        name: float(rng.uniform(low, high)) * float(rng.random() < 0.5) for name, (_, low, high) in GENERATORS.items()
    }
    return Synthesis(**drawn)


def _draw_effects(rng: np.random.Generator, palette: Palette, config: TimbreConfig) -> tuple[Effect, ...]:
    available = [name for name in RANGES if any(s.split("/")[0] == name for s in palette.effect_settings)]
    count = int(np.searchsorted(np.cumsum(config.effect_counts), rng.random(), side="right"))
    names = rng.permutation(available)[: min(count, 3)]
    return tuple(draw_effect(rng, str(name), palette.effect_settings) for name in names)


def _draw_equalizer(rng: np.random.Generator) -> Equalizer:
    low, middle, high = rng.uniform(-9, 9, 3).tolist()
    return Equalizer(low, middle, float(400 * 10 ** rng.uniform(0, 1)), high)
