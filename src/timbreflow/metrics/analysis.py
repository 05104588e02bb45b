"""Features that are computed once for each recording and compared by the metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timbreflow.audio.files import resample
from timbreflow.metrics.family import FamilyClassifier
from timbreflow.metrics.lsd import mel_decibels
from timbreflow.metrics.onsets import TOLERANCE
from timbreflow.metrics.signals import SAMPLE_RATE, validate
from timbreflow.metrics.timbre import mfcc_statistics
from timbreflow.metrics.transcription import Transcriber
from timbreflow.notes.tables import Notes

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps sound [B, N] at 16 kHz to timbre embeddings [B, D]."""


@dataclass(frozen=True)
class Analysis:
    """One recording as the metrics see it.

    Args:
        audio: [N] float32 at 16 kHz.
        decibels: [128, T] mel spectrogram of `lsd.mel_decibels`.
        mfcc: [24] of `timbre.mfcc_statistics`.
        embedding: [D] of the timbre metric.
        notes: transcription.
        family: family of instruments that the classifier names; None without a classifier.
    """

    audio: NDArray[np.float32]
    decibels: NDArray[np.float32]
    mfcc: NDArray[np.float64]
    embedding: NDArray[np.float32]
    notes: Notes
    family: int | None = None

    @property
    def duration(self) -> float:
        """Length in s."""
        return len(self.audio) / SAMPLE_RATE


@dataclass(frozen=True)
class Truth:
    """What is known of a target without analysing its sound.

    Args:
        notes: the notes that sound in content and target.
        family: General MIDI family of the target; None where it is layered or plays no General MIDI program.
        onset_tolerance: largest difference between onsets that match, in s.
    """

    notes: Notes
    family: int | None = None
    onset_tolerance: float = TOLERANCE


class FeatureCache:
    """Computes the features of recordings once, so that all metrics and systems share them.

    Args:
        transcriber: transcribes notes.
        embed: timbre embedding.
        sample_rate: of the recordings, in Hz; they are resampled to 16 kHz.
        classifier: names families of instruments; None leaves them out.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        embed: Embed,
        *,
        sample_rate: int,
        classifier: FamilyClassifier | None = None,
    ) -> None:
        self._transcriber = transcriber
        self._embed = embed
        self._sample_rate = sample_rate
        self._classifier = classifier

    def __call__(self, recordings: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> list[Analysis]:
        """Analyse recordings [B, N] of one length.

        Raises:
            TimbreflowError: a recording is empty or holds NaN.
        """
        sounds = [resample(validate(recording), self._sample_rate, SAMPLE_RATE) for recording in recordings]
        transcriptions = self._transcriber.transcribe(sounds, SAMPLE_RATE)
        embeddings = self._embed(np.stack(sounds))
        statistics = [mfcc_statistics(sound) for sound in sounds]
        families = [None] * len(sounds) if self._classifier is None else self._classifier(statistics).tolist()
        return [
            Analysis(sound, mel_decibels(sound), mfcc, embedding, notes, family)
            for sound, mfcc, embedding, notes, family in zip(
                sounds, statistics, embeddings, transcriptions, families, strict=True
            )
        ]
