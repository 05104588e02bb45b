"""Programs of the test font that a training font holds too, or nearly: they are no unseen timbres and are dropped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pretty_midi
from numpy.typing import NDArray

from timbreflow.notes.tables import Notes
from timbreflow.rendering.programs import PITCHED_PROGRAMS
from timbreflow.rendering.soundfonts import MELODIC_BANKS, Preset, list_presets
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.timbres import Layer
from timbreflow.testsets.frozen import SAMPLE_RATE

NEAR_DB = 2.5
"""Programs nearer than this, by the median over the loud cells of their log-mels, count as the same."""

_SECONDS = 1.5
_NOTE = Notes.of([0.0], [1.0], [60], [100])
_RMS = 0.07
_FLOOR = 1e-2
_LOUD_DB = -38.0  # 2 dB above the floor: where both are silent, nothing is compared


def near_programs(test: Mapping[str, Path], training: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Programs of test fonts within NEAR_DB of any program of a training font, on one note (C4, 1 s, equal RMS).

    Args:
        test: fonts by name.
        training: fonts by name.

    Returns:
        One dict a program: soundfont, bank, program, name, nearest (the same fields), distance_db; in their order.
    """
    synthesizer = Synthesizer({**test, **training}, sample_rate=SAMPLE_RATE)
    try:
        heard = _log_mels(synthesizer, test)
        known = _log_mels(synthesizer, training)
    finally:
        synthesizer.close()
    references = np.stack([log_mel for _, log_mel in known])
    found = []
    for preset, log_mel in heard:
        distances = _distances(references, log_mel)
        nearest = int(np.argmin(distances))
        if distances[nearest] < NEAR_DB:
            found.append(
                {**_fields(preset), "nearest": _fields(known[nearest][0]), "distance_db": round(distances[nearest], 2)}
            )
    return found


def melodic_presets(fonts: Mapping[str, Path]) -> list[Preset]:
    """Presets of the fonts that timbres may use."""
    presets = [preset for name, path in fonts.items() for preset in _presets(name, path)]
    return [preset for preset in presets if preset.bank in MELODIC_BANKS and preset.program in PITCHED_PROGRAMS]


def _presets(name: str, path: Path) -> list[Preset]:
    if path.suffix != ".sf3":
        return list_presets(path, name)
    # MuseScore leaves out the padding of odd chunks, so its preset headers cannot be walked to; these are GM fonts.
    return [Preset(name, 0, program, pretty_midi.program_to_instrument_name(program)) for program in PITCHED_PROGRAMS]


def _log_mels(synthesizer: Synthesizer, fonts: Mapping[str, Path]) -> Sequence[tuple[Preset, NDArray[np.float32]]]:
    bank = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=2048, n_mels=64, norm=None)
    found = []
    for preset in melodic_presets(fonts):
        layer = Layer(preset.soundfont, preset.bank, preset.program, 0.0)
        audio = synthesizer.play(_NOTE, [layer], None, seconds=_SECONDS)
        rms = float(np.sqrt(np.mean(np.square(audio))))
        if rms < 1e-6:  # some presets leave middle C out
            continue
        magnitude = bank @ np.abs(librosa.stft(audio * (_RMS / rms), n_fft=2048, hop_length=512))
        found.append((preset, (20 * np.log10(np.maximum(magnitude, _FLOOR))).astype(np.float32)))
    return found


def _distances(references: NDArray[np.float32], log_mel: NDArray[np.float32]) -> list[float]:
    loud = (references > _LOUD_DB) | (log_mel > _LOUD_DB)
    difference = np.abs(references - log_mel)
    return [float(np.median(cells[where])) for cells, where in zip(difference, loud, strict=True)]


def _fields(preset: Preset) -> dict[str, Any]:
    return {"soundfont": preset.soundfont, "bank": preset.bank, "program": preset.program, "name": preset.name}
