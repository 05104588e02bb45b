"""Waveforms, mel spectrograms and piano rolls as PNG files; sounds are read in blocks, whatever their length."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from timbreflow.audio.files import audio_info, stream_audio
from timbreflow.inference.pianoroll import HeardNote
from timbreflow.inference.streaming.recordings import BLOCK, open_recording

if TYPE_CHECKING:
    from timbreflow.inference.transfer import TimbreTransfer

WIDTH, HEIGHT = 1000, 96
FEWEST_PITCHES = 24
WAVE = (37, 99, 235)
NOTE = (250, 204, 21)
GROUND = (15, 16, 32)
RAMP = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], np.float32)
"""From soft to loud, of even steps in lightness."""
SPAN = 80 / 20 * np.log(10)
"""80 dB, at most, from the softest to the loudest colour, as natural logarithms."""


def envelope(path: Path, *, columns: int = WIDTH) -> np.ndarray:
    """Lowest and highest sample of the mono mix in each of `columns` equal parts: [2, columns]."""
    n_samples = audio_info(path).n_samples
    found = np.zeros((2, columns), np.float32)
    position = 0
    for block in stream_audio(path, block=BLOCK):
        mono = block.mean(axis=0)
        column = np.minimum((position + np.arange(len(mono))) * columns // max(1, n_samples), columns - 1)
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        at = column[starts]
        found[0, at] = np.minimum(found[0, at], np.minimum.reduceat(mono, starts))
        found[1, at] = np.maximum(found[1, at], np.maximum.reduceat(mono, starts))
        position += len(mono)
    return found


def waveform(path: Path, out: Path) -> Path:
    """A waveform on a clear ground, its peak at full height."""
    found = envelope(path)
    low, high = found / max(1e-6, float(np.abs(found).max()))
    rows = np.linspace(1, -1, HEIGHT)[:, None]
    inside = (rows <= high + 1 / HEIGHT) & (rows >= low - 1 / HEIGHT)
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[inside] = (*WAVE, 255)
    return _saved(pixels, out)


def mel_spectrogram(path: Path, session: "TimbreTransfer", out: Path) -> Path:
    """The log-mels that the model sees, low bands below."""
    recording = open_recording(path)
    n_frames = recording.seconds * session.sample_rate / session.bundle.features.hop_length
    step = max(1, int(n_frames // WIDTH))
    size = session.plan.length // step * step or session.plan.length
    parts, held = [], np.zeros(0, np.float32)

    def add(audio: np.ndarray) -> None:
        with torch.inference_mode():
            seen = session.synthesizer.features(torch.from_numpy(audio)[None].to(session.device))
            mels = session.synthesizer.normalizer.denormalize(seen)[0].float().cpu()
        kept = mels[:, : mels.shape[1] // step * step] if mels.shape[1] >= step else mels[:, :1]
        parts.append(kept.reshape(len(mels), -1, min(step, kept.shape[1])).amax(-1).numpy())

    for block in recording.mono(session.sample_rate):
        held = np.concatenate((held, block))
        while len(held) >= 2 * size:
            add(held[:size])
            held = held[size:]
    add(np.pad(held, (0, max(0, session.bundle.features.hop_length - len(held)))))
    mels = np.concatenate(parts, axis=1)
    loudest = float(np.quantile(mels, 0.999))
    span = min(SPAN, max(1e-6, loudest - float(mels.min())))
    shade = np.clip((mels - loudest + span) / span, 0, 1)[::-1]
    places = np.linspace(0, 1, len(RAMP))
    return _saved(np.stack([np.interp(shade, places, RAMP[:, one]) for one in range(3)], -1).astype(np.uint8), out)


def piano_roll(notes: Iterable[HeardNote], seconds: float, out: Path) -> Path:
    """Notes as bars, high pitches above; the pitches shown are those heard, and at least two octaves."""
    notes = list(notes)
    pitches = [note.pitch for note in notes] or [60]
    spare = max(2, (FEWEST_PITCHES - max(pitches) + min(pitches)) // 2)
    highest, lowest = max(pitches) + spare, min(pitches) - spare
    pixels = np.full((highest - lowest + 1, WIDTH, 3), GROUND, np.uint8)
    for note in notes:
        first = int(note.onset / seconds * WIDTH)
        last = max(first + 1, int((note.onset + note.duration) / seconds * WIDTH) - 1)
        pixels[highest - note.pitch, first:last] = NOTE
    return _saved(pixels, out)


def _saved(pixels: np.ndarray, out: Path) -> Path:
    Image.fromarray(pixels).save(out)
    return out
