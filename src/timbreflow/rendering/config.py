"""The `render_triples` section of params.yaml."""

from dataclasses import astuple, dataclass
from typing import Literal


@dataclass(frozen=True)
class SoundFontSpec:
    """A SoundFont by name and content.

    Args:
        name: `TimGM6mb` (ships with pretty_midi) or the stem of a file in data/soundfonts.
        sha256: of the file, 64 hexadecimal digits: another file of that name is an error, never other data.
        role: `train` fonts sound in train, validation and test_seen; `test` fonts in test alone.
    """

    name: str
    sha256: str
    role: Literal["train", "test"]


@dataclass(frozen=True)
class TripleCounts:
    """Number of triples of each split; with `complete_squares`, of the squares of the train split."""

    train: int
    validation: int
    test: int
    test_seen: int

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0 or self.train == 0:
            raise ValueError("triples must not be negative, and train needs at least one; correct the counts.")


@dataclass(frozen=True)
class SplitFractions:
    """What is kept away from training, each in [0, 1).

    Args:
        validation_pieces: fraction of the pieces.
        test_pieces: fraction of the pieces, for test and test_seen.
        test_programs: fraction of the programs of each group of eight that only test plays; programs that share
            samples go together.
        test_effects: fraction of the settings of each effect that only test uses.
    """

    validation_pieces: float
    test_pieces: float
    test_programs: float
    test_effects: float

    def __post_init__(self) -> None:
        if not all(0 <= fraction < 1 for fraction in astuple(self)) or self.validation_pieces + self.test_pieces >= 1:
            raise ValueError("fractions must lie in [0, 1) and leave pieces for training; lower them.")


@dataclass(frozen=True)
class TimbreConfig:
    """How timbres are drawn.

    Args:
        layer_probability: that two or more programs sound together.
        max_layers: most programs that do.
        synthesis_probability: that filter, envelope, vibrato and tuning are changed.
        equalizer_probability: that an equalizer is drawn.
        effect_counts: probabilities of 0, 1, 2 and 3 effects.
    """

    layer_probability: float
    max_layers: int
    synthesis_probability: float
    equalizer_probability: float
    effect_counts: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        chances = (self.layer_probability, self.synthesis_probability, self.equalizer_probability, *self.effect_counts)
        if not all(0 <= chance <= 1 for chance in chances):
            raise ValueError("probabilities of timbre must lie in [0, 1]; correct them.")
        if abs(sum(self.effect_counts) - 1) > 1e-6:
            raise ValueError(f"effect_counts must add up to 1, not {sum(self.effect_counts):g}; correct them.")
        if not 1 <= self.max_layers <= 8:
            raise ValueError(f"max_layers must lie in 1..8, not {self.max_layers}.")


@dataclass(frozen=True)
class PerformanceConfig:
    """How far the performance of a segment may differ from its score; content and target are played alike.

    Args:
        tempo: played up to (1 + tempo) times as fast or as slow, evenly drawn on a logarithmic scale.
        velocity: all velocities are changed by -velocity..+velocity.
    """

    tempo: float
    velocity: int

    def __post_init__(self) -> None:
        if not 0 <= self.tempo <= 1 or not 0 <= self.velocity <= 64:
            raise ValueError("performance.tempo must lie in [0, 1] and performance.velocity in 0..64; correct them.")


@dataclass(frozen=True)
class RenderConfig:
    """Everything that decides which clips are rendered.

    Args:
        seed: of all draws.
        sample_rate: in Hz; the synthesizer renders at this rate directly.
        clip_seconds: length of every clip.
        min_onsets: least number of distinct onsets in a clip.
        transposition: content and style are each moved by -transposition..+transposition semitones.
        performance: variation of tempo and velocity.
        complete_squares: render a fourth clip for each triple of the train split, the style's notes with the content's
            timbre: each of the four clips is then the target of a triple, so four clips make four triples, not 4/3.
        triples_per_shard: triples in one unit of work.
    """

    seed: int
    sample_rate: int
    clip_seconds: float
    min_onsets: int
    transposition: int
    performance: PerformanceConfig
    complete_squares: bool
    triples_per_shard: int
    soundfonts: tuple[SoundFontSpec, ...]
    triples: TripleCounts
    splits: SplitFractions
    timbre: TimbreConfig

    def __post_init__(self) -> None:
        if not 8000 <= self.sample_rate <= 96000:
            raise ValueError(f"sample_rate must lie in 8000..96000 Hz, which FluidSynth takes, not {self.sample_rate}.")
        if self.clip_seconds <= 0 or self.min_onsets < 1 or self.triples_per_shard < 1 or self.transposition < 0:
            raise ValueError("clip_seconds, min_onsets and triples_per_shard must be positive, transposition >= 0.")
        if not any(font.role == "train" for font in self.soundfonts):
            raise ValueError("soundfonts needs at least one with role train; add TimGM6mb.")
        if len({font.name for font in self.soundfonts}) < len(self.soundfonts):
            raise ValueError("soundfonts names one font twice; remove it.")
