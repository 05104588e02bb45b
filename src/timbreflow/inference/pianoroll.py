"""The notes that a model hears: its piano roll, and the roll as MIDI."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file
from timbreflow.inference.playing import Player
from timbreflow.inference.streaming.chunks import cut
from timbreflow.inference.streaming.recordings import Recording
from timbreflow.inference.synthesis import encoding

THRESHOLD = 0.5
SHORTEST_FRAMES = 2
"""A pitch that is heard for less, 62 ms, is no note."""
VELOCITY = 80
"""Of all notes: a piano roll knows no loudness."""


class HeardNote(NamedTuple):
    """A note; onset and duration in s, MIDI pitch."""

    onset: float
    duration: float
    pitch: int


def heard_roll(player: Player, content: Recording, *, transpose: float) -> np.ndarray:
    """The notes that a model hears in a recording.

    Args:
        player: of the model.
        content: a recording.
        transpose: semitones by which it is analysed higher.

    Returns:
        [128, T] probabilities of each MIDI pitch, a frame of the features each.

    Raises:
        TimbreflowError: the model has no piano-roll head.
    """
    model = encoding(player.synthesizer.model)
    if model.content_path.pianoroll_head is None:
        raise TimbreflowError("This model hears no notes: it was trained without a piano-roll head.")
    config = player.synthesizer.config

    @torch.inference_mode()
    def rolls() -> Iterator[np.ndarray]:
        for chunk in cut(content.mono(player.sample_rate), player.plan):
            logits = model.content_path(
                player.synthesizer.content_features([chunk], transpose=transpose)
            ).pianoroll_logits
            assert logits is not None
            yield logits[0].sigmoid().float().cpu().numpy()

    hop = player.plan.hop / config.hop_length
    starts = (number * hop for number in range(player.plan.count(content.n_samples * 10)))
    roll = joined(rolls(), starts, overlap=player.plan.overlap / config.hop_length)
    return roll[:, : max(1, round(content.seconds / config.seconds_per_frame))]


def joined(rolls: Iterable[np.ndarray], starts: Iterable[float], *, overlap: float) -> np.ndarray:
    """Rolls of overlapping chunks as one.

    Args:
        rolls: [128, T] each.
        starts: first frame of each in the whole, which need not be a whole one.
        overlap: frames that neighbours share; each gives half of them.
    """
    parts: list[np.ndarray] = []
    length = 0
    for roll, start in zip(rolls, starts, strict=False):
        first = round(start)
        kept = min(length, first + round(overlap / 2)) if parts else first
        if parts:
            parts[-1] = parts[-1][:, : parts[-1].shape[1] - (length - kept)]
        parts.append(roll[:, kept - first :])
        length = first + roll.shape[1]
    return np.concatenate(parts, axis=1)


def notes_of(roll: np.ndarray, seconds_per_frame: float) -> list[HeardNote]:
    """Runs of a pitch above the threshold, by onset and pitch.

    Args:
        roll: [128, T] probabilities.
        seconds_per_frame: of the roll.
    """
    on = np.pad(roll >= THRESHOLD, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(on, axis=1)
    (pitch, begin), (_, end) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    found = (
        HeardNote(float(first * seconds_per_frame), float((last - first) * seconds_per_frame), int(key))
        for key, first, last in zip(pitch, begin, end, strict=True)
        if last - first >= SHORTEST_FRAMES
    )
    return sorted(found, key=lambda note: (note.onset, note.pitch))


def write_midi(notes: Iterable[HeardNote], path: str | Path) -> None:
    """Write notes as a standard MIDI file.

    Raises:
        TimbreflowError: pretty_midi is not installed, or the file cannot be written.
    """
    try:
        import pretty_midi
    except ImportError as error:
        raise TimbreflowError(
            "MIDI files need pretty_midi, which is not installed; type `make setup` in the checkout."
        ) from error
    midi, part = pretty_midi.PrettyMIDI(), pretty_midi.Instrument(0, name="heard by timbreflow")
    part.notes = [pretty_midi.Note(VELOCITY, note.pitch, note.onset, note.onset + note.duration) for note in notes]
    midi.instruments.append(part)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(Path(path)) as temporary:
        midi.write(str(temporary))
