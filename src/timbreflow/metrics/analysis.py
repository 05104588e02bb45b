"""What is measured once for every recording: metrics then compare these instead of sound.

Content, style and target are analysed once a triple and shared by all systems.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timbreflow.audio.files import resample
from timbreflow.metrics.lsd import decibel_distance, mel_decibels
from timbreflow.metrics.onsets import TOLERANCE, onset_f1
from timbreflow.metrics.pitch import pitch_distance
from timbreflow.metrics.signals import SAMPLE_RATE, validate
from timbreflow.metrics.stft import stft_distance
from timbreflow.metrics.timbre import cosine_distance, mfcc_statistics
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
    """

    audio: NDArray[np.float32]
    decibels: NDArray[np.float32]
    mfcc: NDArray[np.float64]
    embedding: NDArray[np.float32]
    notes: Notes

    @property
    def duration(self) -> float:
        """Length in s."""
        return len(self.audio) / SAMPLE_RATE


class Analyser:
    """Analyses batches of recordings.

    Args:
        transcriber: hears notes.
        embed: timbre embedding.
        sample_rate: of the recordings, in Hz; they are resampled to 16 kHz.
    """

    def __init__(self, transcriber: Transcriber, embed: Embed, *, sample_rate: int) -> None:
        self._transcriber = transcriber
        self._embed = embed
        self._sample_rate = sample_rate

    def __call__(self, recordings: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> list[Analysis]:
        """Analyse recordings [B, N] of one length.

        Raises:
            TimbreflowError: a recording is empty or holds NaN.
        """
        sounds = [resample(validate(recording), self._sample_rate, SAMPLE_RATE) for recording in recordings]
        transcriptions = self._transcriber.transcribe(sounds, SAMPLE_RATE)
        embeddings = self._embed(np.stack(sounds))
        return [
            Analysis(sound, mel_decibels(sound), mfcc_statistics(sound), embedding, notes)
            for sound, embedding, notes in zip(sounds, embeddings, transcriptions, strict=True)
        ]


def compare(
    estimate: Analysis, target: Analysis, truth: Notes, *, onset_tolerance: float = TOLERANCE
) -> dict[str, float]:
    """All metrics of one output against its target and the true notes, by name as in metrics.json."""
    return {
        "lsd": decibel_distance(*_same_frames(estimate.decibels, target.decibels)),
        "timbre": cosine_distance(estimate.embedding, target.embedding),
        "timbre_mfcc": cosine_distance(estimate.mfcc, target.mfcc),
        "pitch": pitch_distance(estimate.notes, target.notes, duration=target.duration),
        "onset_f1": onset_f1(estimate.notes, truth, tolerance=onset_tolerance),
        "stft": stft_distance(estimate.audio, target.audio),
    }


def _same_frames(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # Inversion may lose an unfinished frame; `stft_distance` refuses outputs that differ by more.
    frames = min(first.shape[1], second.shape[1])
    return first[:, :frames], second[:, :frames]
