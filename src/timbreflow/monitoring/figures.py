"""A few figures of a sound: enough to see what kind of sound it is, too few to hear it or to know whose it was.

All but length and level are of the mono mix at 16 kHz and at the level of the training clips, as the models hear it.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from timbreflow.audio.files import SILENCE_DBFS
from timbreflow.errors import TimbreflowError
from timbreflow.inference.pianoroll import THRESHOLD
from timbreflow.inference.released import released_folder
from timbreflow.inference.streaming.recordings import AUDIBLE_RANGE_DB, Recording, from_array
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.bundle import load_bundle, weights_sha256

SAMPLE_RATE = 16000
MOST_SECONDS = 30.0
"""Of a longer sound the most active part of this length is looked at, so that an hour costs no more than this."""
FRAME = 2048
"""Samples of a spectrum: 128 ms, bins of 7.8 Hz."""
BAND_SHARE = 0.99
LOUDEST_DB = 60.0
"""Of a spectrum's bins, those farther below its strongest count as so far below: the floors of renderers and of codecs
differ, and nobody hears them."""


@dataclass(frozen=True)
class Figures:
    """Of one sound; None where the sound has none, since it is silent, empty or not finite.

    Attributes:
        seconds: length.
        level_dbfs: RMS of the audible part.
        silent_share: share of frames of 50 ms that are inaudible, 0 to 1.
        polyphony: notes at a time, in frames where a note is heard at all; 0 where none is.
        pitched_share: share of frames in which a note is heard, 0 to 1.
        band_hz: frequency below which 99 % of the energy lies.
        flatness_db: geometric over arithmetic mean of the spectrum, mean over audible frames: some -3 for white noise,
            -32 for a sine.
    """

    seconds: float
    level_dbfs: float | None = None
    silent_share: float | None = None
    polyphony: float | None = None
    pitched_share: float | None = None
    band_hz: float | None = None
    flatness_db: float | None = None


class Ears:
    """What hears notes: the piano-roll head of the released VQ-VAE.

    It stays the same whichever model is served, so that figures of today and of the training can be compared after a
    promotion. A salience of our own would be cheaper and worse: this head was trained on just such sounds.
    """

    @cached_property
    def weights(self) -> str:
        """sha256 of its weights."""
        return weights_sha256(released_folder("vqvae"))

    @cached_property
    def _session(self) -> TimbreTransfer:
        return TimbreTransfer(load_bundle(released_folder("vqvae")))

    def roll(self, sound: np.ndarray) -> np.ndarray:
        """[128, T] bool: pitches that are heard in a sound [N] at 16 kHz."""
        return np.asarray(self._session.piano_roll(sound, sample_rate=SAMPLE_RATE) >= THRESHOLD)


def measure(sound: np.ndarray, sample_rate: int, ears: Ears) -> Figures:
    """Figures of a sound [N] or [C, N] in [-1, 1]."""
    try:
        recording = from_array(sound, sample_rate, name="the sound")
    except TimbreflowError:
        return Figures(round(np.shape(sound)[-1] / sample_rate, 3))
    excerpt = recording.excerpt(SAMPLE_RATE, seconds=MOST_SECONDS)
    spectra = _power_spectra(excerpt)
    heard = ears.roll(excerpt).sum(axis=0)
    return Figures(
        seconds=round(recording.seconds, 3),
        level_dbfs=round(20 * math.log10(recording.level), 2),
        silent_share=round(_silent_share(recording), 4),
        polyphony=round(float(heard[heard > 0].mean()), 3) if heard.any() else 0.0,
        pitched_share=round(float((heard > 0).mean()), 4),
        band_hz=round(_band(spectra), 1),
        flatness_db=round(_flatness(spectra), 2),
    )


def _silent_share(recording: Recording) -> float:
    powers = recording.frame_powers
    threshold = max(10 ** (SILENCE_DBFS / 10), float(powers.max()) * 10 ** (-AUDIBLE_RANGE_DB / 10))
    return float((powers <= threshold).mean())


def _power_spectra(sound: np.ndarray) -> np.ndarray:
    """[F, 1025] of the audible frames of a sound [N]."""
    padded = np.pad(sound, (0, max(0, FRAME - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[:: FRAME // 2]
    powers = np.square(np.abs(np.fft.rfft(frames * np.hanning(FRAME).astype(np.float32)))).astype(np.float64)
    energy = powers.sum(axis=1)
    return np.asarray(powers[energy >= energy.max() * 10 ** (-AUDIBLE_RANGE_DB / 10)])


def _band(spectra: np.ndarray) -> float:
    total = np.cumsum(spectra.sum(axis=0))
    return float(np.searchsorted(total, BAND_SHARE * total[-1]) * SAMPLE_RATE / FRAME)


def _flatness(spectra: np.ndarray) -> float:
    floored = np.maximum(spectra, spectra.max(axis=1, keepdims=True) * 10 ** (-LOUDEST_DB / 10))
    ratio = 10 * (np.log10(floored).mean(axis=1) - np.log10(floored.mean(axis=1)))
    return float(ratio.mean())
