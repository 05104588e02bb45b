"""The table of the 2021 paper, for comparison: its data differ, so compare the order of rows and not the figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """One row of Cífka et al. 2021, table 2: LSD (dB) and distances, artificial set and recordings (`real`)."""

    system: str
    lsd: float
    timbre: float
    pitch: float
    real_timbre: float
    real_pitch: float


PUBLISHED = (
    PublishedRow("content copied", 14.62, 0.3713, 0.5365, 0.4957, 0.0),
    PublishedRow("style copied", 20.36, 0.2681, 0.8729, 0.0, 0.9099),
    PublishedRow("Ulyanov-Lebedev", 14.50, 0.3483, 0.5441, 0.4792, 0.1315),
    PublishedRow("musaicing", 14.51, 0.2933, 0.6445, 0.2319, 0.6297),
    PublishedRow("VQ-VAE", 12.16, 0.2063, 0.5500, 0.2278, 0.6197),
)
