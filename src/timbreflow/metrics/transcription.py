"""Notes from sound: the transcriber of the pitch distance and the note onset F1.

The network is Basic Pitch's ONNX file, which comes with the `basic-pitch` package. Importing that package would need
TensorFlow and resampy, so the file is only located, and the two steps around the network are written here.

Conventions:
    Audio at 22.05 kHz, cut into windows of 43,844 samples that overlap by 30 frames of 256 samples; half of the
    overlap is dropped on either side. The network gives a note and an onset posteriorgram [frames, 88].

Deviations from the reference:
    * A frame's time is computed from its window's true start, where the reference adds an empirical correction that
      assumes windows of another length: up to 20 ms of difference at 8 s.
    * A note may start in the last frames; pitch bends are not estimated.
    * A note begins at its onset frame. Thresholds: note .3, onset .5, shortest note 11 frames (128 ms).

Reference: Bittner, Bosch, Rubinstein, Meseguer-Brocal, Ewert, *A Lightweight Instrument-Agnostic Model for Polyphonic
Note Transcription and Multipitch Estimation*, ICASSP 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import scipy.signal
from numpy.typing import NDArray

from timbreflow.audio.files import resample
from timbreflow.errors import TimbreflowError
from timbreflow.metrics.signals import validate
from timbreflow.notes.tables import Notes

MODEL_RATE = 22_050  # Hz
FRAME = 256  # samples
WINDOW = 43_844  # samples
OVERLAP_FRAMES = 30
HOP = WINDOW - OVERLAP_FRAMES * FRAME
LOWEST_PITCH = 21
N_PITCHES = 88
GAP_TOLERANCE = 11
"""A note ends once its energy has stayed under the threshold for this many frames."""


@dataclass(frozen=True)
class Posteriorgrams:
    """What the network found in one recording.

    Args:
        note: [T, 88] probability that a pitch sounds.
        onset: [T, 88] probability that a pitch begins.
        times: [T] time of each frame, in s.
    """

    note: NDArray[np.float32]
    onset: NDArray[np.float32]
    times: NDArray[np.float64]


class Transcriber:
    """Basic Pitch on onnxruntime; windows of many recordings run as one batch.

    Args:
        threads: threads that one network call may use.
        note_threshold: lowest probability at which a note goes on sounding.
        onset_threshold: lowest probability of an onset.
        shortest_note: in frames of 11.6 ms; shorter notes are dropped.
        batch_size: windows (of 2 s) in one call.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        note_threshold: float = 0.3,
        onset_threshold: float = 0.5,
        shortest_note: int = 11,
        batch_size: int = 16,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(network_file()), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._note_threshold = note_threshold
        self._onset_threshold = onset_threshold
        self._shortest_note = shortest_note
        self._batch_size = batch_size

    def transcribe(self, recordings: Sequence[NDArray[np.float32]], sample_rate: int) -> list[Notes]:
        """Transcribe recordings [N] of any lengths.

        Returns:
            one `Notes` a recording; velocity is the mean note probability, scaled to 1-127.

        Raises:
            TimbreflowError: a recording is empty or holds NaN.
        """
        return [
            notes_from_posteriorgrams(
                heard,
                note_threshold=self._note_threshold,
                onset_threshold=self._onset_threshold,
                shortest_note=self._shortest_note,
            )
            for heard in self.posteriorgrams(recordings, sample_rate)
        ]

    def posteriorgrams(self, recordings: Sequence[NDArray[np.float32]], sample_rate: int) -> list[Posteriorgrams]:
        """Note and onset probabilities of recordings [N]."""
        if not recordings:
            return []
        signals = [resample(validate(recording), sample_rate, MODEL_RATE) for recording in recordings]
        windows = [_windows(signal) for signal in signals]
        note, onset = self._run(np.concatenate(windows))
        edges = np.cumsum([0, *(len(own) for own in windows)])
        return [
            _unwrap(note[start:end], onset[start:end], n_samples=len(signal))
            for signal, start, end in zip(signals, edges[:-1], edges[1:], strict=True)
        ]

    def _run(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        notes, onsets = [], []
        for start in range(0, len(windows), self._batch_size):
            batch = windows[start : start + self._batch_size, :, None]
            note, onset = self._session.run(
                ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"], {self._input: batch}
            )
            notes.append(note)
            onsets.append(onset)
        return np.concatenate(notes), np.concatenate(onsets)


def network_file() -> Path:
    """Path of Basic Pitch's nmp.onnx, without importing the package.

    Raises:
        TimbreflowError: the package is not installed or lacks the file.
    """
    package = find_spec("basic_pitch")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder) / "saved_models" / "icassp_2022" / "nmp.onnx"
        if path.is_file():
            return path
    raise TimbreflowError(
        "Basic Pitch's nmp.onnx is missing; run `make setup`, or `pip install --no-deps basic-pitch==0.4.0`."
    )


def notes_from_posteriorgrams(
    heard: Posteriorgrams, *, note_threshold: float, onset_threshold: float, shortest_note: int
) -> Notes:
    """Turn posteriorgrams into notes, as the Basic Pitch paper describes it.

    From the last onset peak to the first, a note follows its pitch until the energy stays under `note_threshold`;
    what a note has used, in its own bin and its neighbours', is taken away. Then the strongest energy that is left
    is grown in both directions into notes without an onset, until nothing above the threshold remains.
    """
    energy = heard.note.astype(np.float64)
    n_frames = len(energy)
    onsets = _with_rising_energy(heard.onset.astype(np.float64), energy)
    peaks = np.zeros_like(onsets, dtype=bool)
    peaks[scipy.signal.argrelmax(onsets, axis=0)] = True
    remaining = energy.copy()
    found: list[tuple[int, int, int]] = []

    for start, pitch in np.argwhere(peaks & (onsets >= onset_threshold))[::-1]:
        end = _follow(remaining[:, pitch], int(start) + 1, n_frames, 1, note_threshold)
        if end - start > shortest_note:
            _neighbours(remaining, int(start), end, int(pitch))[:] = 0.0
            found.append((int(start), end, int(pitch)))

    # Visiting cells from strong to weak equals looking for the maximum again and again, since energy only goes away.
    frames, pitches = np.nonzero(remaining > note_threshold)
    for index in np.argsort(-remaining[frames, pitches], kind="stable"):
        middle, pitch = int(frames[index]), int(pitches[index])
        if remaining[middle, pitch] <= note_threshold:
            continue
        end = _follow(remaining[:, pitch], middle + 1, n_frames, 1, note_threshold)
        start = _follow(remaining[:, pitch], middle - 1, -1, -1, note_threshold) + 1
        _neighbours(remaining, start, end, pitch)[:] = 0.0
        if end - start > shortest_note:
            found.append((start, end, pitch))
    return _as_notes(found, energy, heard.times)


def _with_rising_energy(onsets: NDArray[np.float64], energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Onsets, or the rise of note energy over one and two frames, scaled to the onsets' peak, where that is greater."""
    if len(energy) <= 2:
        return onsets
    rise = np.zeros_like(energy)
    rise[2:] = np.maximum(np.minimum(energy[2:] - energy[1:-1], energy[2:] - energy[:-2]), 0.0)
    peak = float(rise.max())
    return onsets if peak <= 0.0 else np.maximum(onsets, rise * (float(onsets.max()) / peak))


def _follow(energy: NDArray[np.float64], first: int, stop: int, step: int, threshold: float) -> int:
    """First frame, going by `step`, at which the energy has left the note for `GAP_TOLERANCE` frames (or `stop`)."""
    below = 0
    frame = first
    while frame != stop and below < GAP_TOLERANCE:
        below = below + 1 if energy[frame] < threshold else 0
        frame += step
    return frame - step * below


def _neighbours(energy: NDArray[np.float64], start: int, end: int, pitch: int) -> NDArray[np.float64]:
    return energy[start:end, max(pitch - 1, 0) : pitch + 2]


def _windows(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Overlapping windows [n, 43844] of a signal [N] that is led in by half an overlap of silence."""
    n_windows = max(1, -(-len(signal) // HOP))
    padded = np.zeros((n_windows - 1) * HOP + WINDOW, dtype=np.float32)
    lead = OVERLAP_FRAMES * FRAME // 2
    usable = min(len(signal), len(padded) - lead)
    padded[lead : lead + usable] = signal[:usable]
    return np.stack([padded[i * HOP : i * HOP + WINDOW] for i in range(n_windows)])


def _unwrap(note: NDArray[np.float32], onset: NDArray[np.float32], *, n_samples: int) -> Posteriorgrams:
    half = OVERLAP_FRAMES // 2
    kept = slice(half, note.shape[1] - half)
    n_windows, n_kept = len(note), note.shape[1] - 2 * half
    # Frame `half` of a window is its start plus the silence led in, that is `window * HOP` in the signal.
    starts = np.arange(n_windows)[:, None] * HOP + np.arange(n_kept)[None, :] * FRAME
    times = (starts / MODEL_RATE).reshape(-1)
    inside = times < n_samples / MODEL_RATE
    return Posteriorgrams(
        note=note[:, kept].reshape(-1, N_PITCHES)[inside],
        onset=onset[:, kept].reshape(-1, N_PITCHES)[inside],
        times=times[inside],
    )


def _as_notes(found: list[tuple[int, int, int]], energy: NDArray[np.float64], times: NDArray[np.float64]) -> Notes:
    ends = np.append(times, times[-1] + FRAME / MODEL_RATE if len(times) else 0.0)
    return Notes.of(
        [float(times[start]) for start, _, _ in found],
        [float(ends[end] - times[start]) for start, end, _ in found],
        [pitch + LOWEST_PITCH for _, _, pitch in found],
        [int(np.clip(round(127 * energy[start:end, pitch].mean()), 1, 127)) for start, end, pitch in found],
    )
