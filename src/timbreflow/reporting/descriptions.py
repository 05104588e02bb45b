"""What the report calls its metrics and sets, and what it says of them."""

from dataclasses import dataclass

from timbreflow.evaluation.scores import HIGHER_IS_BETTER


@dataclass(frozen=True)
class MetricText:
    """How a metric is shown.

    Args:
        name: in metrics.json.
        label: column head.
        digits: decimals.
        meaning: one sentence for people who meet it first.
    """

    name: str
    label: str
    digits: int
    meaning: str

    @property
    def higher(self) -> bool:
        """Whether higher is better."""
        return self.name in HIGHER_IS_BETTER


METRICS = (
    MetricText(
        "lsd",
        "LSD (dB)",
        2,
        "How far the spectrogram lies from the true target, band by band, in decibels. It "
        "rewards a careful average, so a blurred sound can score well.",
    ),
    MetricText(
        "timbre",
        "Timbre",
        3,
        "How differently a network that was trained to tell instruments apart hears the "
        "output and the target; 0 is the same instrument, 1 is unrelated.",
    ),
    MetricText(
        "timbre_mfcc",
        "MFCC twin",
        3,
        "The same question asked without a trained network: cosine distance "
        "of the mean and the deviation of MFCC 2-13. The two should agree on the order of the rows.",
    ),
    MetricText(
        "pitch",
        "Pitch",
        3,
        "Share of sounding pitches on which transcriptions of output and target disagree. "
        "The transcriber hears some instruments better than others, so even the content scores above 0.",
    ),
    MetricText(
        "onset_f1",
        "Onset F1",
        3,
        "How many of the true notes a transcriber finds in the output within 50 ms, "
        "and how few it invents; 1 is all of them.",
    ),
    MetricText(
        "note_score",
        "Note score",
        3,
        "Onset F1 divided by the best that the transcriber reaches on real "
        "renders of the same notes; about 1 means that no note was lost.",
    ),
    MetricText("stft", "STFT", 3, "Multi-resolution distance of linear spectrograms: LSD's companion for fine detail."),
    MetricText(
        "frechet",
        "Fréchet",
        3,
        "Distance between all outputs and all targets taken as two clouds of timbre "
        "embeddings; it also sees a lack of variety.",
    ),
)
SET_TITLES = {
    "test": ("Unseen timbres", "Pieces and instruments that no model met in training."),
    "test_seen": ("Seen timbres", "The same unseen pieces, on instruments drawn as in training."),
}
