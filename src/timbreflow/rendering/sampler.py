"""A small sampler: notes played with recordings of single notes, so that real instruments have a known target.

The recording nearest in pitch is resampled to the note, at most REACH semitones away. It is placed so that its attack
reaches ATTACK_DB below its peak exactly at the note's onset: bowed and blown notes swell slowly, and listeners hear
their onset near that point. A note ends with a short fade, as a player's does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr

from timbreflow.audio.files import read_audio
from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import Notes
from timbreflow.rendering.clips import RenderedClip, finished
from timbreflow.rendering.triples import ClipRecipe

REACH = 3
"""Semitones by which a recording may be moved: further, the instrument stops being itself."""

ATTACK_DB = -20.0
"""Level of the attack, relative to the recording's peak, that falls on the note's onset."""

LEAD_SECONDS = 0.03
"""Sound before that point that is kept, faded in."""

RELEASE_SECONDS = 0.12
"""Fade after the end of a note."""

_KEYS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

_NAME = re.compile(r"([A-G])(s?)(-?\d)")


@dataclass(frozen=True)
class Instrument:
    """What a folder of recordings is.

    Args:
        program: General MIDI program that names it, from 0.
        lowest: MIDI pitch below which the instrument does not play.
        highest: MIDI pitch above which it does not play.
        chords: whether one player sounds several notes at once.
        corrections: file stem -> MIDI pitch that it truly holds, where its name says another.
    """

    program: int
    lowest: int
    highest: int
    chords: bool
    corrections: Mapping[str, int] = field(default_factory=dict)


INSTRUMENTS: dict[str, Instrument] = {
    "tonejs-piano": Instrument(0, 24, 104, True),
    "tonejs-xylophone": Instrument(13, 64, 99, True),
    "tonejs-organ": Instrument(19, 36, 84, True),
    "tonejs-guitar-nylon": Instrument(24, 38, 83, True, {"D5": 75}),
    "tonejs-violin": Instrument(40, 55, 93, False),
    "tonejs-cello": Instrument(42, 36, 74, False, {"As4": 71}),
    "tonejs-trumpet": Instrument(56, 54, 84, False, {"C3": 60, "As3": 70}),
    "tonejs-flute": Instrument(73, 60, 96, False),
}
"""Corpora of `timbreflow corpus list`. The corrections are measured: four recordings sound another pitch than their
name's, such as tonejs-trumpet/C3.mp3, whose partials are those of middle C."""


def recorded_pitch(stem: str) -> int | None:
    """MIDI pitch that a file name such as `C4` (60) or `As3` (A sharp, 58) says; None for any other name."""
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    return 12 * (int(match[3]) + 1) + _KEYS[match[1]] + bool(match[2])


def list_recordings(folder: Path, instrument: Instrument) -> dict[int, Path]:
    """Recordings of an instrument by the pitch that they hold; where two hold one pitch, the rightly named one.

    Args:
        folder: with files such as `C4.mp3`.
        instrument: whose corrections apply.

    Raises:
        TimbreflowError: the folder holds no such file.
    """
    named = {path: pitch for path in sorted(Path(folder).glob("*.mp3")) if (pitch := recorded_pitch(path.stem))}
    if not named:
        raise TimbreflowError(f"{folder} holds no recordings named by their notes, such as C4.mp3; fetch them again.")
    found: dict[int, Path] = {}
    for path, pitch in sorted(named.items(), key=lambda item: (item[0].stem in instrument.corrections, item[0])):
        found.setdefault(instrument.corrections.get(path.stem, pitch), path)
    return dict(sorted(found.items()))


class Sampler:
    """Instruments played from recordings of their single notes.

    Args:
        folders: name of an instrument -> folder of its recordings.
        sample_rate: of the sound that is made, in Hz.
        instruments: what may be played.

    Raises:
        TimbreflowError: a folder holds no recordings, or a name is not among the instruments.
    """

    def __init__(
        self, folders: Mapping[str, Path], *, sample_rate: int, instruments: Mapping[str, Instrument] = INSTRUMENTS
    ) -> None:
        self.sample_rate = sample_rate
        unknown = sorted(set(folders) - set(instruments))
        if unknown:
            raise TimbreflowError(
                f"{unknown[0]} is no instrument of the sampler; choose from {', '.join(instruments)}."
            )
        self._instruments = instruments
        self._recordings = {name: list_recordings(path, instruments[name]) for name, path in folders.items()}
        self._decoded: dict[Path, tuple[np.ndarray, int]] = {}
        self._samples: dict[tuple[str, int], tuple[np.ndarray, int]] = {}

    def reaches(self, name: str, pitch: int) -> bool:
        """Whether an instrument plays a pitch: it is in its range and within REACH of a recording.

        Raises:
            TimbreflowError: the instrument is not loaded.
        """
        instrument = self._instruments[name]
        return instrument.lowest <= pitch <= instrument.highest and abs(self._nearest(name, pitch) - pitch) <= REACH

    def play(self, notes: Notes, name: str, *, seconds: float) -> np.ndarray:
        """Render notes with one instrument.

        A velocity v has the amplitude (v / 127)^2, as in General MIDI. Recordings are levelled to equal peaks.

        Args:
            notes: onsets relative to the clip.
            name: of the instrument.
            seconds: length of the clip.

        Returns:
            [N] float32, N = round(seconds * sample_rate); not scaled, may exceed 1.

        Raises:
            TimbreflowError: the instrument is not loaded, or one of its recordings cannot be read.
        """
        audio = np.zeros(round(seconds * self.sample_rate), np.float64)
        release = round(RELEASE_SECONDS * self.sample_rate)
        for onset, duration, pitch, velocity in zip(
            notes.onset.tolist(), notes.duration.tolist(), notes.pitch.tolist(), notes.velocity.tolist(), strict=True
        ):
            sample, attack = self._sample(name, pitch)
            first = round(onset * self.sample_rate) - attack
            held = attack + max(round(duration * self.sample_rate), 1)
            sound = sample[: held + release].copy()
            n_fade = max(len(sound) - held, 0)
            sound[held:] *= 0.5 * (1 + np.cos(np.pi * np.arange(n_fade) / release))
            begin, end = max(first, 0), min(first + len(sound), len(audio))
            if end > begin:
                audio[begin:end] += (velocity / 127) ** 2 * sound[begin - first : end - first]
        return audio.astype(np.float32)

    def _nearest(self, name: str, pitch: int) -> int:
        if name not in self._recordings:
            raise TimbreflowError(f"the recordings {name} are not loaded; run `timbreflow corpus fetch {name}`.")
        return min(self._recordings[name], key=lambda recorded: (abs(recorded - pitch), recorded))

    def _sample(self, name: str, pitch: int) -> tuple[np.ndarray, int]:
        """A recording at a pitch, of peak 1, and the sample that falls on the onset: ([n] float64, index)."""
        key = (name, pitch)
        if key not in self._samples:
            recorded = self._nearest(name, pitch)
            path = self._recordings[name][recorded]
            if path not in self._decoded:
                sound, rate = read_audio(path)
                self._decoded[path] = (sound.mean(axis=0), rate)
            sound, rate = self._decoded[path]
            # Taken as if it had been recorded at a higher rate, it sounds that much higher.
            shifted = soxr.resample(sound, rate * 2 ** ((pitch - recorded) / 12), self.sample_rate, quality="HQ")
            self._samples[key] = _aligned(np.asarray(shifted, np.float64), self.sample_rate, path)
        return self._samples[key]


def render_sampled(recipe: ClipRecipe, notes: Notes, sampler: Sampler) -> RenderedClip | None:
    """Render a clip whose timbre is a recorded instrument, to the level that `clips.render_recipe` gives.

    Args:
        recipe: its timbre's first layer names the instrument; it has one layer and no synthesis parameters.
        notes: of the recipe's segment.
        sampler: with the instrument loaded.

    Returns:
        The clip, or None when the instrument does not reach a pitch or the clip is silent.

    Raises:
        TimbreflowError: the instrument is not loaded.
    """
    name = recipe.timbre.layers[0].soundfont
    if not all(sampler.reaches(name, pitch) for pitch in sorted(set(notes.pitch.tolist()))):
        return None
    audio = recipe.timbre.process(sampler.play(notes, name, seconds=recipe.seconds), sampler.sample_rate)
    return finished(audio, sampler.sample_rate)


def _aligned(sound: np.ndarray, sample_rate: int, path: Path) -> tuple[np.ndarray, int]:
    peak = float(np.max(np.abs(sound)))
    if peak <= 0:
        raise TimbreflowError(f"{path} is silent; fetch the recordings again.")
    sound = sound / peak
    attack = int(np.argmax(np.abs(sound) >= 10 ** (ATTACK_DB / 20)))
    lead = min(round(LEAD_SECONDS * sample_rate), attack)
    cut = sound[attack - lead :].copy()
    cut[:lead] *= np.linspace(0, 1, lead, endpoint=False)
    return cut, lead
