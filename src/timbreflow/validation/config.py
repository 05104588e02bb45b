"""What the data must be like before anything is trained on it."""

from dataclasses import dataclass, fields

from timbreflow.errors import TimbreflowError


@dataclass(frozen=True)
class ValidationConfig:
    """Limits of the validation suites: the `validate_data` section of params.yaml.

    Args:
        silent_rms_dbfs: a clip whose RMS is below this, in dBFS, counts as silent.
        max_silent_fraction: share of clips that may be silent, 0 to 1.
        clipped_peak: a clip whose peak is at or above this, linear, counts as clipped.
        max_clipped_fraction: share of clips that may be clipped, 0 to 1.
        min_mean_rms_dbfs: lowest mean level of all clips, in dBFS.

    Raises:
        TimbreflowError: a share is not in 0..1, or clipped_peak not in 0..1.
    """

    silent_rms_dbfs: float
    max_silent_fraction: float
    clipped_peak: float
    max_clipped_fraction: float
    min_mean_rms_dbfs: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if "dbfs" not in field.name and not 0 <= value <= 1:
                raise TimbreflowError(f"validate_data.{field.name} is {value:g}; set it within 0..1.")


@dataclass(frozen=True)
class ExpectedData:
    """What the data must hold by the section render_triples, in plain numbers.

    Args:
        triples: number of triples of each split.
        n_samples: samples of every clip.
        min_onsets: least number of note onsets in a clip.
        transposition: clips are moved by at most so many semitones either way.
        max_layers: most programs that sound together in a timbre.
        test_soundfonts: SoundFonts that sound in the split test alone; empty where test has none of its own.
        held_out_programs: programs that only test plays, where it has no SoundFont of its own.
    """

    triples: dict[str, int]
    n_samples: int
    min_onsets: int
    transposition: int
    max_layers: int
    test_soundfonts: frozenset[str]
    held_out_programs: frozenset[int]
