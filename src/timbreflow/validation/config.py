"""What the data must be like before anything is trained on it."""

from dataclasses import dataclass, fields

from timbreflow.errors import TimbreflowError


@dataclass(frozen=True)
class ValidationConfig:
    """Limits of the validation suites.

    Args:
        silent_rms_dbfs: a clip whose RMS is below this, in dBFS, counts as silent.
        max_silent_fraction: share of clips that may be silent, 0 to 1.
        clipped_peak: a clip whose peak is at or above this, linear, counts as clipped.
        max_clipped_fraction: share of clips that may be clipped, 0 to 1.
        min_mean_rms_dbfs: lowest mean level of all clips, in dBFS.
        min_onsets: note onsets that every clip has at least.
        max_count_shortfall: share of the promised triples that a split may lack, 0 to 1.

    Raises:
        TimbreflowError: a share is not in 0..1.
    """

    silent_rms_dbfs: float
    max_silent_fraction: float
    clipped_peak: float
    max_clipped_fraction: float
    min_mean_rms_dbfs: float
    min_onsets: int
    max_count_shortfall: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if ("fraction" in field.name or "shortfall" in field.name) and not 0 <= value <= 1:
                raise TimbreflowError(f"validate_data.{field.name} is {value:g} in params.yaml; set it within 0..1.")
